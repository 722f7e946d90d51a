"""From 15 guided steps to one: the rungs of distillation (docs/distillation.md), each based on the previous one.

  star-jax train --config configs/distill.py:guidance --workdir runs/guidance \\
      --config.model.checkpoint=checkpoints/star --config.data.source=openvid.csv
  star-jax assemble runs/guidance checkpoints/unguided
  star-jax train --config configs/distill.py:one_step --workdir runs/one_step \\
      --config.model.checkpoint=checkpoints/unguided --config.data.source=openvid.csv
  star-jax assemble runs/one_step checkpoints/one_step
  star-jax train --config configs/distill.py:one_step_pixels --workdir runs/pixels \\
      --config.model.checkpoint=checkpoints/one_step --config.data.source=openvid.csv
  star-jax assemble runs/pixels checkpoints/pixels
  star-jax train --config configs/distill.py:dual_stream --workdir runs/dual \\
      --config.model.checkpoint=checkpoints/pixels --config.distill.teacher=checkpoints/star \\
      --config.data.source=openvid.csv

As in STAR's training, ControlNet and LIEM are trained, and student and teacher share the base UNet. With
--config.model.lora_rank=64, low-rank updates of both networks are trained instead. Numbers of steps and learning
rates are those of the systems that the rungs follow (DOVE, DUO-VSR), at 25 frames of 320x640 (336x640 for the
network). They have not been tuned for STAR's weights.
"""

from star_jax.data.config import DataConfig
from star_jax.diffusion.losses import LossConfig
from star_jax.errors import InputError
from star_jax.parallel.mesh import MeshConfig
from star_jax.train.config import ExperimentConfig, ModelConfig, OptimizerConfig, TrainConfig
from star_jax.train.distill.config import (
    DualStreamConfig,
    DualStreamExperiment,
    GuidanceConfig,
    GuidanceExperiment,
    OneStepConfig,
    OneStepExperiment,
)

RUNGS = ("guidance", "one_step", "one_step_pixels", "dual_stream")


def get_config(rung: str = "guidance") -> ExperimentConfig:
    if rung not in RUNGS:
        raise InputError(f"rung is {rung!r}; write configs/distill.py:RUNG with one of {', '.join(RUNGS)}")
    return {
        "guidance": _guidance,
        "one_step": _one_step,
        "one_step_pixels": _one_step_pixels,
        "dual_stream": _dual_stream,
    }[rung]()


def _guidance() -> GuidanceExperiment:
    return GuidanceExperiment(
        **_groups(num_steps=5_000, learning_rate=2e-5),
        diffusion=LossConfig(frequency="off"),
        distill=GuidanceConfig(),
    )


def _one_step() -> OneStepExperiment:
    return OneStepExperiment(
        **_groups(num_steps=10_000, learning_rate=2e-5, clip_norm=0.1),
        diffusion=LossConfig(frequency="off"),
        distill=OneStepConfig(),
    )


def _one_step_pixels() -> OneStepExperiment:
    return OneStepExperiment(
        **_groups(num_steps=500, learning_rate=5e-6, clip_norm=0.1),
        diffusion=LossConfig(frequency="direct", frames=3),
        distill=OneStepConfig(latent_weight=0.0, pixel_weight=1.0, difference_weight=1.0),
    )


def _dual_stream() -> DualStreamExperiment:
    return DualStreamExperiment(
        **_groups(num_steps=12_000, learning_rate=2e-6, weight_decay=0.0),
        diffusion=LossConfig(frequency="direct", frames=3, first_timestep=20, last_timestep=980),
        distill=DualStreamConfig(latent_weight=0.0, pixel_weight=1.0, difference_weight=1.0),
    )


def _groups(*, num_steps: int, learning_rate: float, **optimizer: float) -> dict:
    """Settings that the rungs have in common."""
    return {
        "train": TrainConfig(
            num_steps=num_steps,
            batch_size=8,
            ema_decay=0.999,
            remat="full",
            checkpoint_every_steps=250,
            validate_every_steps=500,
        ),
        "data": DataConfig(
            source="openvid.csv",
            recipe="realbasicvsr",
            num_frames=25,
            frame_interval=2,
            height=336,
            width=640,
            caption_dropout=0.5,
            num_workers=8,
        ),
        "model": ModelConfig(preset="i2vgen-xl", checkpoint="checkpoints/star"),
        "optimizer": OptimizerConfig(learning_rate=learning_rate, **optimizer),
        "mesh": MeshConfig(data=1, fsdp=-1),
    }
