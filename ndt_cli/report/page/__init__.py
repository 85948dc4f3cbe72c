"""Pages of runs and sweeps: one HTML file each, which needs nothing beside it."""
