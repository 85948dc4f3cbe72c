"""Spikes in memory, the file layouts they come in, checks, and the synthetic sets."""
