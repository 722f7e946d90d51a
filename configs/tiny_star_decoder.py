"""The light decoder of `tiny-star`, over the network of configs/tiny_star.py: detail, and a knob for nearness.

  star-jax train-decoder --config configs/tiny_star_decoder.py --workdir DIR \
      --config.model.checkpoint=CHECKPOINT --config.data.source=scenes:20000:PHOTOGRAPHS

PHOTOGRAPHS is the folder that `make photographs` writes. The network's latents are made once for a fixed set of
clips, half a second each; then a step is a few convolutions and LPIPS.
"""

from star_jax.data.config import DataConfig
from star_jax.train.config import OptimizerConfig, TrainConfig
from star_jax.train.decoder.config import ClipsConfig, DecoderExperimentConfig, DecoderLossConfig


def get_config() -> DecoderExperimentConfig:
    return DecoderExperimentConfig(
        train=TrainConfig(
            num_steps=1200,
            batch_size=2,
            ema_decay=0.99,  # averages about 100 steps
            remat="none",
            log_every_steps=25,
            checkpoint_every_steps=100,
            validate_every_steps=200,
            validation_source="scenes:16:held-out",
            validation_batches=8,
        ),
        data=DataConfig(
            source="scenes:20000",
            recipe="realbasicvsr-crops",
            num_frames=5,
            frame_interval=1,
            height=208,
            width=192,
        ),
        clips=ClipsConfig(count=1080),
        loss=DecoderLossConfig(perceptual_weight=1.0, fidelity_share=0.2, detail_share=0.65),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, schedule="constant", warmup_steps=25, b2=0.99, weight_decay=0.0
        ),
    )
