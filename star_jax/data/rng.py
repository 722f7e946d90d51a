"""Random generators that depend on (seed, name, position) alone, never on earlier draws."""

import zlib

import numpy as np


def generator(seed: int, name: str, *position: int) -> np.random.Generator:
    """Returns the generator of one named draw.

    Workers, hosts and resumed runs get the same numbers, because no state is carried from draw to draw.

    Args:
      seed: the run's seed, not negative.
      name: name of the draw (`clip`, `degradation`).
      position: the element's index, and a frame's index where needed; not negative.
    """
    entropy = [seed, zlib.crc32(name.encode()), *position]
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy)))
