"""Tensors in, tensors out: the network, its context window, masking and losses."""
