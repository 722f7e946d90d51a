"""STAR on CogVideoX (arXiv 2501.02976, table 6): 25 frames of 480x720, the sizes of the released system.

  star-jax convert CogVideoX-5b/transformer CogVideoX-5b/vae CogVideoX-5b/text_encoder CogVideoX-5b/tokenizer \\
      checkpoints/cogvideox-5b --lora 512
  star-jax train --config configs/star_cogvideox.py:5b --workdir runs/cogvideox \\
      --config.data.source=openvid.csv

`configs/star_cogvideox.py:2b` is the smaller network; `configs/star_cogvideox.py:tiny` trains fresh weights for a
few minutes on a CPU. As in the released code, low-rank updates, LIEM, the input projection and the last layers are
trained, and the DF loss carries no gradient (`--config.diffusion.stop_gradient=False` gives it one).

Weights and optimizer state are split over all devices (mesh.fsdp), and so are the clips; mesh.context also splits a
clip's tokens.
"""

import dataclasses

from star_jax.data.config import DataConfig
from star_jax.diffusion.losses import RELEASED_LOSS, LossConfig
from star_jax.errors import InputError
from star_jax.parallel.mesh import MeshConfig
from star_jax.train.config import ExperimentConfig, ModelConfig, OptimizerConfig, TrainConfig

VARIANTS = ("5b", "2b", "tiny")


def get_config(variant: str = "5b") -> ExperimentConfig:
    if variant not in VARIANTS:
        raise InputError(f"variant is {variant!r}; choose one of {', '.join(VARIANTS)}")
    return _tiny() if variant == "tiny" else _full(f"cogvideox-{variant}")


def _full(preset: str) -> ExperimentConfig:
    return ExperimentConfig(
        train=TrainConfig(
            num_steps=15_000,
            batch_size=8,
            remat="full",
            checkpoint_every_steps=500,
            keep_every_steps=5_000,
            validate_every_steps=1_000,
        ),
        data=DataConfig(
            source="openvid.csv",
            recipe="star",
            num_frames=25,
            frame_interval=2,
            height=480,
            width=720,
            caption_dropout=0.5,
            num_workers=8,
        ),
        model=ModelConfig(preset=preset, checkpoint=f"checkpoints/{preset}"),
        diffusion=_loss(num_latents=7),
        optimizer=OptimizerConfig(learning_rate=5e-5, schedule="constant", clip_norm=1.0),
        mesh=MeshConfig(data=1, fsdp=-1),
    )


def _loss(num_latents: int) -> LossConfig:
    """The released loss, for which the autoencoder decodes all latents of a clip in one call."""
    return dataclasses.replace(RELEASED_LOSS, decode_group=num_latents)


def _tiny() -> ExperimentConfig:
    return ExperimentConfig(
        train=TrainConfig(num_steps=300, batch_size=2, remat="none", checkpoint_every_steps=100),
        data=DataConfig(
            source="synthetic:64",
            recipe="realbasicvsr-crops",
            num_frames=9,
            frame_interval=1,
            height=64,
            width=64,
        ),
        model=ModelConfig(preset="tiny-cogvideox", train_base=True),
        diffusion=_loss(num_latents=3),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=10, weight_decay=0.0),
    )
