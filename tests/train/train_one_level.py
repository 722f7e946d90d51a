"""star-jax train with the preset `one-level`: train_one_level.py ARGUMENTS; also a --config file for it.

Weights as small as these would stay whole on every device: here all but the smallest are split.
"""

import sys

from jax._src import cache_key
from one_level import ONE_LEVEL

from star_jax.data.config import DataConfig
from star_jax.launch.cli import main
from star_jax.parallel import weights as sharding
from star_jax.train.config import ExperimentConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> ExperimentConfig:
    return ExperimentConfig(
        TrainConfig(2, batch_size=4, remat="none", log_every_steps=1, checkpoint_every_steps=1),
        DataConfig("synthetic:4", num_frames=4, frame_interval=1, height=12, width=8),
        ModelConfig(ONE_LEVEL.preset),
        optimizer=OptimizerConfig(learning_rate=1e-3),
    )


if __name__ == "__main__":
    sharding._SMALLEST_SPLIT = 64
    # Where processes share their programs, the first compiles. On CPUs, JAX's key of a program has the number of
    # the process in it; without it, the others find what the first one made.
    cache_key._hash_accelerator_config = lambda digest, devices: None
    sys.exit(main(["train", *sys.argv[1:]]))
