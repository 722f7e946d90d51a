"""Training configurations: files with a `get_config` function."""
