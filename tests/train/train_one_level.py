"""star-jax train with the preset `one-level`: train_one_level.py ARGUMENTS; also a --config file for it.

Weights as small as these would stay whole on every device: here all but the smallest are split.
"""

import sys
from typing import Any

from one_level import ONE_LEVEL

from star_jax.launch.cli import main
from star_jax.parallel import mesh as sharding


def get_config() -> dict[str, dict[str, Any]]:
    return {
        "train": {
            "num_steps": 2,
            "batch_size": 4,
            "remat": "none",
            "log_every_steps": 1,
            "checkpoint_every_steps": 1,
        },
        "data": {"source": "synthetic:4", "num_frames": 4, "frame_interval": 1, "height": 12, "width": 8},
        "model": {"preset": ONE_LEVEL.preset},
        "optimizer": {"learning_rate": 1e-3},
    }


if __name__ == "__main__":
    sharding._SMALLEST_SPLIT = 64
    sys.exit(main(["train", *sys.argv[1:]]))
