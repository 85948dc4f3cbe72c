"""The settings tree, and how TOML files, presets and --set become one."""
