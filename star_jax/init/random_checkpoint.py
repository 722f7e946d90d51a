"""Checkpoint directories with random weights in every leaf, for tests and first tries."""

import os
from typing import Any

import numpy as np

from star_jax.checkpoints.directory import create_checkpoint, save_component
from star_jax.checkpoints.trees import flatten, unflatten
from star_jax.config import ArchitectureConfig
from star_jax.init.leaves import RANDOM, fresh_leaf
from star_jax.models.architectures import build_model
from star_jax.presets import get_preset


def random_checkpoint(
    directory: str | os.PathLike,
    preset: str | ArchitectureConfig,
    *,
    seed: int = 0,
    dtype: str = "float32",
    force: bool = False,
) -> dict:
    """Makes a checkpoint directory with random weights in every leaf, for tests and first tries.

    Args:
      directory: name of the directory, which appears only when it is complete.
      preset: a preset's name, or sizes. Tokenizer files are written only for a vocabulary of byte-level tokens.
      seed: seed of the weights.
      dtype: dtype of the stored weights.
      force: replace an existing checkpoint directory.

    Returns:
      The content of provenance.json.

    Raises:
      InputError: unknown preset, or `directory` exists.
    """
    config = get_preset(preset) if isinstance(preset, str) else preset
    model = build_model(config)
    provenance: dict[str, Any] = {
        "preset": config.preset,
        "random_seed": seed,
        "dtype": dtype,
        "components": {},
    }
    with create_checkpoint(directory, config, provenance, force=force) as partial:
        for name in model.components:
            leaves = flatten(model.abstract(name))
            save_component(
                partial,
                name,
                unflatten(
                    {
                        path: fresh_leaf(f"{name}/{path}", leaf.shape, np.dtype(dtype), RANDOM, seed)
                        for path, leaf in leaves.items()
                    }
                ),
            )
            provenance["components"][name] = {"source": f"random:{config.preset}", "family": "random"}
        if model.has_own_tokenizer:
            model.write_tokenizer(partial)
    return provenance
