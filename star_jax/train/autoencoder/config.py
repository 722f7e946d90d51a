"""Settings of an autoencoder's training run; see `star_jax.train.config`."""

from dataclasses import dataclass, field

from star_jax.data.config import DataConfig
from star_jax.errors import InputError
from star_jax.parallel.mesh import MeshConfig
from star_jax.train.config import OptimizerConfig, TrainConfig


@dataclass(frozen=True)
class VaeModelConfig:
    """The autoencoder that is trained."""

    # Name of the sizes in `star_jax.presets.PRESETS`.
    preset: str


@dataclass(frozen=True)
class VaeLossConfig:
    """Settings of the loss in `star_jax.train.autoencoder.objective`."""

    # Weight of the error in the differences between neighbouring pixels.
    gradient_weight: float = 0.5
    # Weight of the KL divergence, which is a mean over latents.
    kl_weight: float = 1e-6
    # Share of the clips that are degraded and enlarged again.
    degraded_share: float = 0.25

    def __post_init__(self):
        for name in ("gradient_weight", "kl_weight", "degraded_share"):
            if getattr(self, name) < 0:
                raise InputError(f"loss.{name} is {getattr(self, name)}; it must not be negative")


@dataclass(frozen=True)
class VaeExperimentConfig:
    """A training run of an autoencoder; the fields are the groups of `--config.group.key`."""

    train: TrainConfig
    data: DataConfig
    model: VaeModelConfig
    loss: VaeLossConfig = field(default_factory=VaeLossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
