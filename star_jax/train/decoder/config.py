"""Settings of a light decoder's training run; see `star_jax.train.config`."""

from dataclasses import dataclass, field

from star_jax.data.config import DataConfig
from star_jax.data.degradations import get_recipe
from star_jax.errors import InputError
from star_jax.parallel.mesh import MeshConfig
from star_jax.train.config import OptimizerConfig, TrainConfig


@dataclass(frozen=True)
class ClipsConfig:
    """The clips, which are made once, with the latents that the network restores, and stay in WORKDIR/clips."""

    # Number of clips to train on.
    count: int = 2000
    # Number of clips to validate on.
    validation_count: int = 16
    # Share of the clips that are degraded by mild_recipe instead of data.recipe.
    mild_share: float = 0.2
    mild_recipe: str = "light"

    def __post_init__(self):
        for name in ("count", "validation_count"):
            if getattr(self, name) < 1:
                raise InputError(f"clips.{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.mild_share <= 1:
            raise InputError(f"clips.mild_share is {self.mild_share}; choose 0 to 1")
        get_recipe(self.mild_recipe)


@dataclass(frozen=True)
class DecoderModelConfig:
    """The model that gets the decoder."""

    # Checkpoint directory whose network makes the latents (`tiny-star` is the one in the package). Training starts
    # from its light decoder if it has one of the sizes below.
    checkpoint: str = "tiny-star"
    # Number of channels at the latents' resolution, and at twice and four times it.
    channels: tuple[int, int, int] = (128, 64, 24)
    # Number of blocks at each of these.
    blocks: tuple[int, int, int] = (5, 10, 1)


@dataclass(frozen=True)
class DecoderLossConfig:
    """Settings of the loss in `star_jax.train.decoder.objective`."""

    # Weight of LPIPS at fidelity 0.
    perceptual_weight: float = 0.1
    # Weight of the adversarial term at fidelity 0; 0 trains no discriminator heads.
    adversarial_weight: float = 0.0
    # Number of channels within each head.
    head_width: int = 64
    # Directory of the metrics' networks (docs/evaluation.md).
    metric_weights: str | None = None
    # Share of the clips whose fidelity is exactly 1 (no LPIPS).
    fidelity_share: float = 0.4
    # Share of the clips whose fidelity is exactly 0; the fidelity of the remaining clips is drawn from 0 to 1.
    detail_share: float = 0.4
    # Weight of the error in the differences between frames.
    motion_weight: float = 0.25

    def __post_init__(self):
        for name in (
            "perceptual_weight",
            "adversarial_weight",
            "fidelity_share",
            "detail_share",
            "motion_weight",
        ):
            if getattr(self, name) < 0:
                raise InputError(f"loss.{name} is {getattr(self, name)}; it must not be negative")
        if self.head_width < 1:
            raise InputError(f"loss.head_width is {self.head_width}; it must be at least 1")
        if self.fidelity_share + self.detail_share > 1:
            raise InputError(
                f"loss.fidelity_share + loss.detail_share is {self.fidelity_share} + {self.detail_share}; the sum "
                "must not be above 1"
            )


@dataclass(frozen=True)
class DecoderExperimentConfig:
    """A training run of a light decoder; the fields are the groups of `--config.group.key`."""

    train: TrainConfig
    data: DataConfig
    clips: ClipsConfig = field(default_factory=ClipsConfig)
    model: DecoderModelConfig = field(default_factory=DecoderModelConfig)
    loss: DecoderLossConfig = field(default_factory=DecoderLossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
