"""The network of `tiny-star`, trained from scratch with the autoencoder of configs/tiny_star_vae.py.

  star-jax train-vae --config configs/tiny_star_vae.py --workdir VAE
  star-jax train --config configs/tiny_star.py --workdir DIR --config.model.checkpoint=VAE/checkpoint
  star-jax assemble DIR FIRST
  star-jax train --config configs/tiny_star.py:longer --workdir LONGER --config.model.checkpoint=FIRST
  star-jax assemble LONGER tiny-star

Timesteps are drawn from the noisy end, from which one step gives the mean of all plausible clips. The second run
sees six frames instead of four: from four, the network does not learn which content moved too far to be averaged.
"""

from star_jax.data.config import DataConfig
from star_jax.diffusion.losses import LossConfig
from star_jax.errors import InputError
from star_jax.train.config import ExperimentConfig, ModelConfig, OptimizerConfig, TrainConfig

STRETCHES = ("first", "longer")


def get_config(stretch: str = "first") -> ExperimentConfig:
    if stretch not in STRETCHES:
        raise InputError(f"stretch is {stretch!r}; choose one of {', '.join(STRETCHES)}")
    longer = stretch == "longer"
    return ExperimentConfig(
        train=TrainConfig(
            num_steps=6000 if longer else 4400,
            batch_size=2,
            ema_decay=0.998,  # averages about 500 steps
            remat="none",
            log_every_steps=50,
            checkpoint_every_steps=250,
            validate_every_steps=0,
            validation_source="scenes:16:held-out",
            validation_batches=4,
        ),
        data=DataConfig(
            source="scenes:20000",
            recipe="realbasicvsr-crops",
            num_frames=6 if longer else 4,
            frame_interval=1,
            height=144,
            width=128,
            seed=3 if longer else 0,  # other clips than in the first run
        ),
        model=ModelConfig(preset="tiny-star", train_base=True),
        diffusion=LossConfig(frequency="off", first_timestep=850, frames=3),
        optimizer=OptimizerConfig(
            learning_rate=4e-4 if longer else 5e-4,
            schedule="cosine",
            warmup_steps=100,
            b2=0.99,
            weight_decay=0.0,
        ),
    )
