"""Layers computed on a CPU by written-out gradients; what this processor computes quickly."""
