"""A few minutes on a CPU: the preset `tiny` with random weights on made-up clips, to see training work.

  star-jax train --config configs/tiny.py --workdir /tmp/tiny

With a checkpoint and videos: --config.model.checkpoint=DIR --config.data.source=FOLDER.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.train = ConfigDict(
        {
            "num_steps": 100,
            "batch_size": 2,
            "remat": "none",
            "checkpoint_every_steps": 50,
            "validate_every_steps": 50,
            "validation_source": "synthetic:4",
        }
    )
    config.data = ConfigDict(
        {"source": "synthetic:64", "num_frames": 4, "frame_interval": 2, "height": 80, "width": 64}
    )
    config.model = ConfigDict({"preset": "tiny", "train_base": True})
    config.diffusion = ConfigDict({"frames": 3})
    config.optimizer = ConfigDict({"learning_rate": 1e-3, "warmup_steps": 10})
    return config.lock()
