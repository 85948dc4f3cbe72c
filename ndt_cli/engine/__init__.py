"""Training: device, one step, the loop, validation, checkpoints, the run folder, inference."""
