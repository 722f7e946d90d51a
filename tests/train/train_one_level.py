"""star-jax train with the preset `one-level`: train_one_level.py ARGUMENTS.

Weights as small as these would stay whole on every device: here all but the smallest are split.
"""

import sys

import one_level  # noqa: F401  registers the preset
from jax._src import cache_key
from quick_programs import collect_garbage_seldom

from star_jax.launch.cli import main
from star_jax.parallel import weights as sharding

if __name__ == "__main__":
    collect_garbage_seldom()
    sharding._SMALLEST_SPLIT = 64
    # Where processes share their programs, the first compiles. On CPUs, JAX's key of a program has the number of
    # the process in it; without it, the others find what the first one made.
    cache_key._hash_accelerator_config = lambda digest, devices: None
    sys.exit(main(["train", *sys.argv[1:]]))
