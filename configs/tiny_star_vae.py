"""The autoencoder of `tiny-star`, trained from scratch on synthetic scenes.

star-jax train-vae --config configs/tiny_star_vae.py --workdir DIR
"""

from star_jax.data.config import DataConfig
from star_jax.train.autoencoder.config import VaeExperimentConfig, VaeLossConfig, VaeModelConfig
from star_jax.train.config import OptimizerConfig, TrainConfig


def get_config() -> VaeExperimentConfig:
    return VaeExperimentConfig(
        train=TrainConfig(
            num_steps=3200,
            batch_size=2,
            ema_decay=0.998,  # averages about 500 steps
            remat="none",
            log_every_steps=50,
            checkpoint_every_steps=250,
            validate_every_steps=500,
            validation_source="scenes:32:held-out",
            validation_batches=8,
        ),
        data=DataConfig(source="scenes:20000", num_frames=3, frame_interval=1, height=64, width=64),
        model=VaeModelConfig(preset="tiny-star"),
        loss=VaeLossConfig(gradient_weight=0.5, kl_weight=1e-6, degraded_share=0.25),
        optimizer=OptimizerConfig(
            learning_rate=6e-4, schedule="cosine", warmup_steps=50, b2=0.99, weight_decay=0.0
        ),
    )
