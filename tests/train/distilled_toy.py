"""Rungs of distillation on the toy architecture; distilled_toy.py FOLDER CHECKPOINT trains them on four devices."""

import sys
from pathlib import Path

import taught_toy  # registers the architecture
from quick_programs import collect_garbage_seldom

from star_jax.data.config import DataConfig
from star_jax.diffusion.losses import LossConfig
from star_jax.parallel.mesh import MeshConfig
from star_jax.train.config import ModelConfig, OptimizerConfig, TrainConfig
from star_jax.train.distill.config import (
    DualStreamConfig,
    DualStreamExperiment,
    GuidanceConfig,
    GuidanceExperiment,
    OneStepConfig,
    OneStepExperiment,
)
from star_jax.train.experiments import make_objective
from star_jax.train.loop import train

PRESET = taught_toy.TaughtConfig.architecture
LATENTS = LossConfig("off", decode_group=3)
PIXELS = LossConfig(decode_group=3)
ONE_STEP = {"timestep": 500, "start": "hint"}
RUNGS = {
    "guidance": (GuidanceExperiment, GuidanceConfig(guidance_scale=3.0), LATENTS, {}),
    "one_step": (
        OneStepExperiment,
        OneStepConfig(pixel_weight=1.0, difference_weight=1.0, **ONE_STEP),
        PIXELS,
        {},
    ),
    "dual_stream": (
        DualStreamExperiment,
        DualStreamConfig(student_every=2, head_channels=4, head_learning_rate=1e-2, **ONE_STEP),
        LATENTS,
        {},
    ),
    "lora": (
        GuidanceExperiment,
        GuidanceConfig(guidance_scale=3.0),
        LATENTS,
        {"lora_rank": 2, "lora_alpha": 4.0},
    ),
}


def experiment(rung: str, checkpoint, *, mesh: MeshConfig | None = None, model=None, num_steps: int = 4):
    """A run of a rung with a checkpoint after every step."""
    kind, distill, loss, options = RUNGS[rung]
    return kind(
        TrainConfig(
            num_steps,
            batch_size=4,
            ema_decay=0.9,
            remat="none",
            log_every_steps=1,
            curves=False,
            checkpoint_every_steps=1,
            keep_checkpoints=9,
        ),
        DataConfig("synthetic:4", num_frames=5, frame_interval=1, height=16, width=16),
        ModelConfig(PRESET, checkpoint=str(checkpoint), **{**options, **(model or {})}),
        loss,
        OptimizerConfig(learning_rate=1e-2),
        mesh or MeshConfig(),
        distill=distill,
    )


def run(rung: str, checkpoint, workdir, **changes) -> None:
    config = experiment(rung, checkpoint, **changes)
    assert train(make_objective(config), config, workdir, quiet=True).finished


if __name__ == "__main__":
    collect_garbage_seldom()
    for name in RUNGS:
        run(name, sys.argv[2], Path(sys.argv[1]) / name, mesh=MeshConfig(2, 2), num_steps=2)
