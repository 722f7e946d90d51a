"""`star-jax benchmark`: one file per kind of measurement."""
