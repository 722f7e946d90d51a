"""star_jax: STAR video super-resolution (arXiv 2501.02976) in JAX/Flax."""

from typing import Any

__all__ = ["StarPipeline"]


def __getattr__(name: str) -> Any:
    """Imports `StarPipeline` when it is asked for: `star-jax --help` should not wait for jax."""
    if name == "StarPipeline":
        from star_jax.inference.pipeline import StarPipeline

        return StarPipeline
    raise AttributeError(f"module 'star_jax' has no attribute {name!r}")
