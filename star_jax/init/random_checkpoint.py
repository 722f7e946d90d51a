"""Checkpoint directories with random weights in every leaf, for tests and first tries."""

import os

import numpy as np

from star_jax.checkpoints.directory import TOKENIZER_DIR, create_checkpoint, save_component
from star_jax.checkpoints.trees import flatten, unflatten
from star_jax.config import StarConfig
from star_jax.init.leaves import RANDOM, fresh_leaf
from star_jax.models.clip.tokenizer import BYTE_LEVEL_VOCABULARY, write_byte_level_tokenizer
from star_jax.models.components import abstract_component, component_names
from star_jax.presets import get_preset


def random_checkpoint(
    directory: str | os.PathLike,
    preset: str | StarConfig,
    *,
    seed: int = 0,
    dtype: str = "float32",
    force: bool = False,
) -> dict:
    """Makes a checkpoint directory with random weights in every leaf, for tests and first tries.

    Args:
      directory: the name that appears when it is complete.
      preset: a preset's name, or sizes. Only the vocabulary of byte-level tokens (514) gets tokenizer files.
      seed: of the weights.
      dtype: of the stored weights.
      force: replace an existing checkpoint directory.

    Returns:
      What provenance.json says.

    Raises:
      InputError: no such preset, or `directory` exists.
    """
    config = get_preset(preset) if isinstance(preset, str) else preset
    names = component_names(config)
    provenance = {"preset": config.preset, "random_seed": seed, "dtype": dtype, "components": {}}
    with create_checkpoint(directory, config, provenance, force=force) as partial:
        for name in names:
            leaves = flatten(abstract_component(config, name)[1])
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
        if config.text_encoder is not None and config.text_encoder.vocab_size == BYTE_LEVEL_VOCABULARY:
            write_byte_level_tokenizer(partial / TOKENIZER_DIR)
    return provenance
