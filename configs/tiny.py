"""A few minutes of training on a CPU, to see it work: fresh networks with the autoencoder of `tiny-star`.

  star-jax train --config configs/tiny.py --workdir DIR                                     # synthetic clips
  star-jax train --config configs/tiny.py --workdir DIR --config.data.source=FOLDER \\
      --config.train.validation_source=OTHER                                                # your clips
"""

from star_jax.data.config import DataConfig
from star_jax.diffusion.losses import LossConfig
from star_jax.train.config import ExperimentConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> ExperimentConfig:
    return ExperimentConfig(
        train=TrainConfig(
            num_steps=200,
            batch_size=2,
            ema_decay=0.95,  # averages about 20 steps
            remat="none",
            checkpoint_every_steps=50,
            validate_every_steps=50,
            validation_source="synthetic:4",
            validation_batches=2,
        ),
        data=DataConfig(
            source="synthetic:64",
            recipe="realbasicvsr-crops",
            num_frames=4,
            frame_interval=1,
            height=80,
            width=64,
        ),
        model=ModelConfig(preset="tiny-star", vae_checkpoint="tiny-star", train_base=True),
        diffusion=LossConfig(frames=3),  # one group of each clip
        optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=20, b2=0.99, weight_decay=0.0),
    )
