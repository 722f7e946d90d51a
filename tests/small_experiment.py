"""The paper's training in the small: one experiment for several test files, so that its step is compiled once.

Also a file for `--config`.
"""

from one_level import ONE_LEVEL

from star_jax.launch.experiment import run_config_file, with_changes
from star_jax.train.config import ExperimentConfig

SMALL = [
    f"--config.model.preset={ONE_LEVEL.preset}",
    "--config.model.checkpoint=None",
    "--config.data.source=synthetic:4",
    "--config.data.num_workers=0",
    "--config.data.num_frames=4",
    "--config.data.frame_interval=1",
    "--config.data.height=12",
    "--config.data.width=8",
    "--config.optimizer.learning_rate=1e-3",
    "--config.train.num_steps=2",
    "--config.train.batch_size=4",
    "--config.train.remat=none",
    "--config.train.log_every_steps=1",
    "--config.train.checkpoint_every_steps=1",
    "--config.train.validate_every_steps=0",
    "--config.train.curves=False",
]


def small(row: str) -> ExperimentConfig:
    """A row of configs/ablations.py on the network of one level."""
    return with_changes(run_config_file(f"ablations.py:{row}"), SMALL)


def get_config() -> ExperimentConfig:
    return small("liem_both")
