"""STAR as in the paper (arXiv 2501.02976, section 4.1): 15,000 steps of 8 clips, 32 frames of 720x1280.

In each step the frequency loss looks at two of a clip's eleven groups of frames, drawn at random and weighted so
that its expected gradient is that of all frames; decoding all of them would be half of the work of a step.
`configs/star_i2vgenxl.py:paper` decodes all groups.

  star-jax convert venhancer_v2.pt SVD/vae OPEN_CLIP checkpoints/venhancer
  star-jax train --config configs/star_i2vgenxl.py --workdir runs/star \\
      --config.model.checkpoint=checkpoints/venhancer --config.data.source=openvid.csv

Training starts from VEnhancer v2, like the released weights; `configs/star_i2vgenxl.py:i2vgenxl` starts from
I2VGen-XL (checkpoints/i2vgenxl), and `configs/star_i2vgenxl.py:released` trains like the released script, with its
degradations and its DF loss, which carries no gradient.

Weights and optimizer state are split over all devices (mesh.fsdp), and so are the 8 clips; more than 8 devices need
mesh.context, for example 8 x 8: --config.mesh.fsdp=8 --config.mesh.context=8.
"""

import dataclasses

from star_jax.data.config import DataConfig
from star_jax.diffusion.losses import RELEASED_LOSS, LossConfig
from star_jax.errors import InputError
from star_jax.parallel.mesh import MeshConfig
from star_jax.train.config import ExperimentConfig, ModelConfig, OptimizerConfig, TrainConfig

CHECKPOINTS = {
    "venhancer": "checkpoints/venhancer",
    "paper": "checkpoints/venhancer",
    "i2vgenxl": "checkpoints/i2vgenxl",
    "released": "checkpoints/venhancer",
}


def get_config(variant: str = "venhancer") -> ExperimentConfig:
    if variant not in CHECKPOINTS:
        raise InputError(f"variant is {variant!r}; choose one of {', '.join(CHECKPOINTS)}")
    config = ExperimentConfig(
        train=TrainConfig(
            num_steps=15_000,
            batch_size=8,
            remat="full",
            checkpoint_every_steps=500,
            keep_every_steps=5_000,
            validate_every_steps=1_000,
        ),
        data=DataConfig(
            source="openvid.csv",  # the paper trains on OpenVid-1M
            recipe="realbasicvsr",
            num_frames=32,
            frame_interval=2,
            height=720,
            width=1280,
            caption_dropout=0.5,
            num_workers=8,
        ),
        model=ModelConfig(preset="i2vgen-xl", checkpoint=CHECKPOINTS[variant]),
        diffusion=LossConfig(
            frequency="direct",
            alpha=2.0,
            schedule="linear",
            beta=1.0,
            low_pass="radius",
            frames=None if variant == "paper" else 6,
        ),
        optimizer=OptimizerConfig(learning_rate=5e-5, schedule="constant", clip_norm=1.0),
        mesh=MeshConfig(data=1, fsdp=-1),  # weights and batch are split over all devices
    )
    if variant == "released":
        data = dataclasses.replace(config.data, recipe="star")
        config = dataclasses.replace(config, data=data, diffusion=RELEASED_LOSS)
    return config
