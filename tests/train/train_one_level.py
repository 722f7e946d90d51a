"""star-jax train with the preset `one-level`: train_one_level.py ARGUMENTS.

Weights as small as these would stay whole on every device: here all but the smallest are split.
"""

import sys

import one_level  # noqa: F401  registers the preset
from quick_programs import collect_garbage_seldom, share_programs_between_processes

from star_jax.launch.cli import main
from star_jax.parallel import weights as sharding

if __name__ == "__main__":
    collect_garbage_seldom()
    sharding._SMALLEST_SPLIT = 64
    share_programs_between_processes()
    sys.exit(main(["train", *sys.argv[1:]]))
