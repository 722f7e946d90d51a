"""The light decoder of `tiny-star`, for the network of configs/tiny_star.py: detail, with a setting for fidelity.

  star-jax train-decoder --config configs/tiny_star_decoder.py --workdir DIR \\
      --config.model.checkpoint=CHECKPOINT --config.data.source=scenes:20000:PHOTOGRAPHS

PHOTOGRAPHS is the folder that `make photographs` writes. The network's latents are computed once for a fixed set of
clips, in a tenth of a second each; a step then consists of convolutions, LPIPS and the discriminator's heads. It is
meant for one GPU (launch/train_tiny_star_gpu.sh); two CPU cores take tens of seconds per step.
"""

from star_jax.data.config import DataConfig
from star_jax.train.config import OptimizerConfig, TrainConfig
from star_jax.train.decoder.config import ClipsConfig, DecoderExperimentConfig, DecoderLossConfig


def get_config() -> DecoderExperimentConfig:
    return DecoderExperimentConfig(
        train=TrainConfig(
            num_steps=20_000,
            batch_size=12,
            ema_decay=0.998,  # averages about 500 steps
            remat="none",
            log_every_steps=50,
            checkpoint_every_steps=1500,
            validate_every_steps=2000,
            validation_source="scenes:16:held-out",
            validation_batches=1,
        ),
        data=DataConfig(
            source="scenes:20000",
            recipe="realbasicvsr-crops",
            num_frames=7,
            frame_interval=1,
            height=208,
            width=192,
            read_threads=4,
        ),
        clips=ClipsConfig(count=9000),
        loss=DecoderLossConfig(
            perceptual_weight=1.0, adversarial_weight=0.03, fidelity_share=0.25, detail_share=0.5
        ),
        optimizer=OptimizerConfig(
            learning_rate=5e-4, schedule="constant", warmup_steps=200, b2=0.99, weight_decay=0.0
        ),
    )
