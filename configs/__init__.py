"""Training configurations: files whose `get_config` returns a typed configuration."""
