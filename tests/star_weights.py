"""Seeded weights of the golden networks, by key and shape, and their way into NNX trees."""

import zlib

import numpy as np
from networks import abstract_component

from star_jax.checkpoints.trees import flatten, unflatten
from star_jax.config import StarConfig
from star_jax.convert.unet_tables import star_table


def golden_weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weight that the golden numbers were computed with; float32, PyTorch layout."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(("star-dev/" + key).encode())))
    x = rng.standard_normal(shape).astype(np.float32)
    if len(shape) >= 2:
        return x / np.sqrt(np.float32(np.prod(shape[1:])))
    if key.endswith(".weight"):
        return 1 + np.float32(0.1) * x
    return np.float32(0.05) * x


def golden_tree(config: StarConfig, component: str) -> dict:
    """A UNet's or ControlNet's parameters filled by `golden_weight`, through the converter's table."""
    leaves = flatten(abstract_component(config, component)[1])
    tree = {}
    for rule in star_table(config).rules:
        name, path = rule.target.split("/", 1)
        if name == component:
            tree[path] = rule.apply(golden_weight(rule.source, rule.source_shape(leaves[path].shape)))
    return unflatten(tree)
