"""The Neural Latents Benchmark '21: its files, tensors, submissions and scores."""
