"""Settings: the tree, its description, and how config, preset and overrides are merged."""
