"""Settings of the rungs of distillation: the group `distill`, and the experiments that have it."""

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
    """What all rungs have."""

    # Name of the rung: guidance, one_step or dual_stream.
    rung: str
    # Quality words appended to captions, as in upscaling. (Prepared latents have the captions' own embeddings.)
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
        """The configuration of the model that comes out: how it is sampled."""


@dataclass(frozen=True)
class GuidanceConfig(RungConfig):
    """See `star_jax.train.distill.guidance`."""

    rung: str = "guidance"
    # Checkpoint of the teacher; None: the one that training starts from.
    teacher: str | None = None
    # The teacher's guidance.
    guidance_scale: float = 7.5
    # Text of its unconditional branch.
    negative_prompt: str = NEGATIVE_PROMPT

    RUNG = "guidance"

    def sizes(self, sizes: ArchitectureConfig) -> ArchitectureConfig:
        return sizes.unguided()


@dataclass(frozen=True)
class OneStepConfig(RungConfig):
    """See `star_jax.train.distill.one_step`."""

    rung: str = "one_step"
    # Timestep of the one step; None: where the checkpoint's sampling starts.
    timestep: int | None = None
    # What the step starts from: the low-resolution latents with noise, `noise`, or as they are, `hint`.
    start: str = "noise"
    # Weights of the terms: squared error of latents; of decoded frames; of differences between neighbouring frames;
    # LPIPS (VGG16) and DISTS. The DF loss has its own, diffusion.beta.
    latent_weight: float = 1.0
    pixel_weight: float = 0.0
    difference_weight: float = 0.0
    lpips_weight: float = 0.0
    dists_weight: float = 0.0
    # Timestep at which the DF loss is taken. Finished frames are compared, hence 0: high frequencies count.
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
    # Checkpoint of the real score, which is guided; None: the one that training starts from.
    teacher: str | None = None
    # The real score's guidance.
    guidance_scale: float = 7.5
    # Text of its unconditional branch.
    negative_prompt: str = NEGATIVE_PROMPT
    # The student is updated every so many steps; at the others, the fake score and the heads are.
    student_every: int = 4
    # Weights of distribution matching, of the adversarial term and of feature matching.
    matching_weight: float = 1.0
    adversarial_weight: float = 0.1
    feature_weight: float = 0.05
    # Channels within each head, and their learning rate; None: the run's.
    head_channels: int = 64
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
    """A run of any rung; each has its own settings."""

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
    """Adam for the heads: without momentum of the first kind, and with the memory of a hundred updates."""
    rate = config.head_learning_rate
    return dataclasses.replace(
        optimizer, b1=0.0, b2=0.99, learning_rate=optimizer.learning_rate if rate is None else rate
    )
