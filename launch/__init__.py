"""The `star-jax` command, one file per subcommand."""
