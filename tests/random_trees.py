"""Weights for tests: seeded normal numbers in place of a component's shapes, so that no layer starts at zero."""

import jax
import jax.numpy as jnp
import numpy as np


def random_tree(abstract, seed: int = 0, scale: float = 0.1):
    """Fills a tree of shapes; vectors are 1 + noise where they scale, which `scale` keeps tame."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        noise = scale * rng.standard_normal(leaf.shape).astype(np.float32)
        if str(getattr(path[-1], "key", "")) == "scale":
            noise += 1.0
        return jnp.asarray(noise, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, abstract)
