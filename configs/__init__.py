"""Training configurations: each file has a `get_config` that returns a typed configuration."""
