"""Random generators that depend on (seed, name, position) alone, never on earlier draws."""

import zlib

import numpy as np


def generator(seed: int, name: str, *position: int) -> np.random.Generator:
    """Returns the generator of one named draw.

    Workers, hosts and resumed runs get the same numbers, as nothing is carried from draw to draw.

    Args:
      seed: the run's seed, not negative.
      name: name of the thing that is drawn (`clip`, `degradation`).
      position: where: the element's index, a frame's index; not negative.
    """
    entropy = [seed, zlib.crc32(name.encode()), *position]
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy)))
