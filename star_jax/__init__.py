"""star_jax: STAR video super-resolution (arXiv 2501.02976) in JAX/Flax."""
