"""``ndt bench``: speed beside the same model of stock PyTorch layers, in one process."""
