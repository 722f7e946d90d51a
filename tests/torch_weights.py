"""Torch weights into NNX modules whose attributes bear the same names."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

_LEAF_OF_WEIGHT = ("kernel", "scale", "embedding")


def randomize(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Fills every parameter with seeded numbers that keep activations of order one; returns the module."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / math.sqrt(math.prod(parameter.shape[1:])))
            else:
                parameter.copy_(0.1 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return module.eval()


def load_torch(module: nnx.Module, state_dict: Mapping[str, torch.Tensor]) -> nnx.Module:
    """Copies a state dict into the module (abstract will do); names and shapes must agree. Returns the module."""
    state = nnx.state(module, nnx.Param)
    tree = nnx.to_pure_dict(state)
    filled = set()
    for key, tensor in state_dict.items():
        path = tuple(int(part) if part.isdigit() else part for part in key.split("."))
        node = tree
        for part in path[:-1]:
            node = node[part]
        leaf = path[-1]
        if leaf == "weight":
            (leaf,) = (name for name in _LEAF_OF_WEIGHT if name in node)
        value = _flax_layout(tensor.detach().numpy(), leaf)
        assert value.shape == node[leaf].shape, f"{key}: {value.shape} against {node[leaf].shape}"
        node[leaf] = jnp.asarray(value)
        filled.add((*path[:-1], leaf))
    missing = {path for path, _ in nnx.to_flat_state(state)} - filled
    assert not missing, f"no weights for {sorted(map(str, missing))[:5]}"
    nnx.replace_by_pure_dict(state, tree)
    nnx.update(module, state)
    return module


def _flax_layout(value: np.ndarray, leaf: str) -> np.ndarray:
    """(out, in, *window) to (*window, in, out) for kernels; the rest keeps its shape."""
    if leaf != "kernel":
        return value
    return np.moveaxis(value, (1, 0), (-2, -1))


def jitted(module: nnx.Module, method: str = "__call__"):
    """A jitted function of the arguments of `method`, with the parameters as an argument of the program."""
    graphdef, state = nnx.split(module)
    run = jax.jit(lambda state, *args: getattr(nnx.merge(graphdef, state), method)(*args))
    return lambda *args: run(state, *map(jnp.asarray, args))


def relative_error(actual, expected) -> float:
    """norm(actual - expected) / norm(expected)."""
    actual, expected = (np.asarray(x, np.float64) for x in (actual, expected))
    assert actual.shape == expected.shape, f"{actual.shape} against {expected.shape}"
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def parameter_sizes(module: nnx.Module) -> list[int]:
    """Number of elements of every parameter; abstract modules will do."""
    return [leaf.size for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(module, nnx.Param)))]
