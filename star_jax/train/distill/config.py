"""Settings of the rungs of distillation: the group `distill`, and the experiments with this group."""

import abc
import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

from star_jax.config import STARTS, ArchitectureConfig
from star_jax.errors import InputError
from star_jax.inference.settings import NEGATIVE_PROMPT, POSITIVE_PROMPT
from star_jax.train.config import ExperimentConfig, OptimizerConfig


@dataclass(frozen=True)
class RungConfig(abc.ABC):
    """Settings that all rungs have."""

    # Name of the rung: guidance, one_step or dual_stream.
    rung: str
    # Quality words that are appended to captions, as in upscaling (but not in datasets prepared as latents, which
    # have the embeddings of the captions alone).
    positive_prompt: str = POSITIVE_PROMPT

    RUNG: ClassVar[str] = ""

    def __post_init__(self):
        if self.rung != self.RUNG:
            raise InputError(
                f"distill.rung is {self.rung!r} in a configuration of rung {self.RUNG!r}; choose "
                f"configs/distill.py:{self.rung}"
            )
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name.endswith("_weight") and value < 0:
                raise InputError(f"distill.{f.name} is {value}; it must not be negative")

    @abc.abstractmethod
    def sizes(self, sizes: ArchitectureConfig) -> ArchitectureConfig:
        """The configuration of the trained model, which says how it is sampled."""


@dataclass(frozen=True)
class GuidanceConfig(RungConfig):
    """See `star_jax.train.distill.guidance`."""

    rung: str = "guidance"
    # Checkpoint of the teacher; None takes the one from which training starts.
    teacher: str | None = None
    # Guidance scale of the teacher.
    guidance_scale: float = 7.5
    # Text of the teacher's unconditional branch.
    negative_prompt: str = NEGATIVE_PROMPT

    RUNG = "guidance"

    def sizes(self, sizes: ArchitectureConfig) -> ArchitectureConfig:
        return sizes.unguided()


@dataclass(frozen=True)
class OneStepConfig(RungConfig):
    """See `star_jax.train.distill.one_step`."""

    rung: str = "one_step"
    # Timestep of the single step; None takes the one at which the checkpoint's sampling starts.
    timestep: int | None = None
    # Input of the step: the low-resolution latents with noise (`noise`) or without (`hint`).
    start: str = "noise"
    # Weights of the terms: squared error of latents, of decoded frames, and of differences between neighbouring
    # frames; LPIPS (VGG16) and DISTS. The weight of the DF loss is diffusion.beta.
    latent_weight: float = 1.0
    pixel_weight: float = 0.0
    difference_weight: float = 0.0
    lpips_weight: float = 0.0
    dists_weight: float = 0.0
    # Timestep at which the DF loss is computed. It is 0, where high frequencies count, because frames are finished.
    frequency_timestep: int = 0

    RUNG = "one_step"

    def __post_init__(self):
        super().__post_init__()
        if self.start not in STARTS:
            raise InputError(f"distill.start is {self.start!r}; choose one of {', '.join(STARTS)}")
        for name in ("timestep", "frequency_timestep"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 999:
                raise InputError(f"distill.{name} is {value}; choose a timestep of 0 to 999")

    def sizes(self, sizes: ArchitectureConfig) -> ArchitectureConfig:
        return sizes.in_one_step(self.timestep, self.start)


@dataclass(frozen=True)
class DualStreamConfig(OneStepConfig):
    """See `star_jax.train.distill.dual_stream`."""

    rung: str = "dual_stream"
    # Checkpoint of the real score, which is guided; None takes the one from which training starts.
    teacher: str | None = None
    # Guidance scale of the real score.
    guidance_scale: float = 7.5
    # Text of the real score's unconditional branch.
    negative_prompt: str = NEGATIVE_PROMPT
    # Length of a cycle: one step updates the student, and the others update the fake score and the heads.
    student_every: int = 4
    # Weights of distribution matching, of the adversarial term and of feature matching.
    matching_weight: float = 1.0
    adversarial_weight: float = 0.1
    feature_weight: float = 0.05
    # Number of channels within each head.
    head_channels: int = 64
    # Learning rate of the heads; None takes the run's.
    head_learning_rate: float | None = None

    RUNG = "dual_stream"

    def __post_init__(self):
        super().__post_init__()
        for name in ("student_every", "head_channels"):
            least = 2 if name == "student_every" else 1
            if getattr(self, name) < least:
                raise InputError(f"distill.{name} is {getattr(self, name)}; it must be at least {least}")


@dataclass(frozen=True)
class DistillExperiment(ExperimentConfig):
    """A run of any rung; the settings in `distill` depend on the rung."""

    distill: Any = None


@dataclass(frozen=True)
class GuidanceExperiment(DistillExperiment):
    """A run of rung `guidance`."""

    distill: GuidanceConfig = field(default_factory=GuidanceConfig)


@dataclass(frozen=True)
class OneStepExperiment(DistillExperiment):
    """A run of rung `one_step`."""

    distill: OneStepConfig = field(default_factory=OneStepConfig)


@dataclass(frozen=True)
class DualStreamExperiment(DistillExperiment):
    """A run of rung `dual_stream`."""

    distill: DualStreamConfig = field(default_factory=DualStreamConfig)


def head_optimizer(config: DualStreamConfig, optimizer: OptimizerConfig) -> OptimizerConfig:
    """Adam for the heads, without a first moment and with a second moment over about a hundred updates."""
    rate = config.head_learning_rate
    return dataclasses.replace(
        optimizer, b1=0.0, b2=0.99, learning_rate=optimizer.learning_rate if rate is None else rate
    )
