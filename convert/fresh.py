"""Weights that no source gives: leaves that start fresh, and whole random checkpoints.

Each leaf has its own generator, seeded by seed and path, so that it does not depend on any other.
"""

import math
import os
import zlib

import numpy as np

from star_jax.checkpoint import TOKENIZER_DIR, create_checkpoint, save_component
from star_jax.config import StarConfig, get_preset
from star_jax.convert.rules import IDENTITY, RANDOM
from star_jax.models.components import abstract_component, component_names
from star_jax.models.tokenizer import BYTE_LEVEL_VOCABULARY, write_byte_level_tokenizer
from star_jax.orbax_trees import LazyArray, flatten, unflatten


def fresh_leaf(path: str, shape: tuple[int, ...], dtype: np.dtype, how: str, seed: int) -> LazyArray:
    """A leaf that starts as `how` says (ZEROS, IDENTITY, RANDOM), made when it is written.

    RANDOM: kernels are uniform in +-1/sqrt(fan in), PyTorch's start of a convolution or linear map; embeddings are
    normal with deviation 0.02; scales are 1, everything else 0.
    """

    def read() -> np.ndarray:
        if how == IDENTITY:
            return np.broadcast_to(np.eye(*shape[-2:]), shape).astype(dtype)
        return (_draw(path, shape, seed) if how == RANDOM else np.zeros(shape)).astype(dtype)

    return LazyArray(shape, dtype, read)


def _draw(path: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
    kind = path.rsplit("/", 1)[-1]
    if kind == "kernel":
        bound = 1 / math.sqrt(math.prod(shape[:-1]))
        return rng.random(shape, np.float32) * (2 * bound) - bound
    if kind == "embedding":
        return rng.standard_normal(shape, np.float32) * 0.02
    return np.full(shape, 1.0 if kind == "scale" else 0.0, np.float32)


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
