"""Search over settings: spaces, sweeps, and which members make an ensemble."""
