"""Settings of a training run: one frozen dataclass per group, which checks its own values.

A file in configs/ returns an `ExperimentConfig` from `get_config()`; launch/experiment.py applies the command
line's `--config.group.key=value`; a work directory records the configuration as JSON, which `from_groups` reads.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from star_jax.config import LIEM_POSITIONS, ArchitectureConfig, LiemConfig
from star_jax.data.config import DataConfig
from star_jax.diffusion.losses import LossConfig
from star_jax.errors import InputError
from star_jax.ops.remat import REMAT_POLICIES
from star_jax.parallel.mesh import MeshConfig
from star_jax.presets import get_preset

SCHEDULES = ("constant", "cosine", "linear")
# Settings of the optimizer that may differ between groups of weights.
_GROUP_KEYS = {"learning_rate": float, "schedule": str, "warmup_steps": int, "weight_decay": float}
DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class TrainConfig:
    """Length of the run, size of an update, and what is saved and reported."""

    # Number of updates of the weights in the whole run, including those before a resume.
    num_steps: int
    # Number of clips per update, over all devices and processes.
    batch_size: int
    # Number of pieces that a batch is split into; they are computed one after the other, in the memory of one.
    grad_accumulation: int = 1
    # Seed of timesteps, noise, dropout and fresh weights (data.seed is the seed of the data).
    seed: int = 0
    # Decay of the moving average of the weights; 0 keeps no average.
    ema_decay: float = 0.0
    # Activations that the backward pass recomputes: `none`, `dots` (all but matrix products), `attention` (all but
    # flash attention on TPUs) or `full`.
    remat: str = "full"
    # Number of steps whose metrics are averaged into one line of the log.
    log_every_steps: int = 10
    # Steps between checkpoints; one more is saved at the end.
    checkpoint_every_steps: int = 500
    # Number of newest checkpoints that are kept.
    keep_checkpoints: int = 3
    # Checkpoints at multiples of this number of steps are kept for ever; 0 keeps none.
    keep_every_steps: int = 0
    # Steps between validations; 0 never validates.
    validate_every_steps: int = 0
    # Clips to validate on, in the form of data.source; None takes the training clips, without random changes.
    validation_source: str | None = None
    # Number of batches in a validation; they are the same every time.
    validation_batches: int = 1
    # A step is bad if its gradient has a larger norm than this, or if its loss or gradient is not finite.
    largest_grad_norm: float | None = None
    # Number of bad steps in a row that are skipped and counted; they leave weights and optimizer as they were. 0
    # stops the run at the first bad step.
    skip_bad_steps: int = 0
    # Seconds without any progress after which the run ends, because something hangs; 0 waits for ever.
    stall_seconds: int = 3600
    # Weights & Biases project that also gets the metrics; None sends nothing.
    wandb: str | None = None
    # Draws WORKDIR/curves.html at the end if matplotlib is installed.
    curves: bool = True
    # First step that jax.profiler records into WORKDIR/profile.
    profile_start_step: int = 10
    # Number of steps that the profiler records; 0 records none.
    profile_steps: int = 0

    def __post_init__(self):
        _check_types("train", self)
        for name in (
            "num_steps",
            "batch_size",
            "grad_accumulation",
            "log_every_steps",
            "checkpoint_every_steps",
            "keep_checkpoints",
            "validation_batches",
        ):
            _check_least("train", self, name, 1)
        for name in (
            "seed",
            "keep_every_steps",
            "validate_every_steps",
            "skip_bad_steps",
            "stall_seconds",
            "profile_start_step",
            "profile_steps",
        ):
            _check_least("train", self, name, 0)
        if self.largest_grad_norm is not None and not self.largest_grad_norm > 0:
            raise InputError(
                f"train.largest_grad_norm is {self.largest_grad_norm}; choose a positive number, or None"
            )
        _check_choice("train", self, "remat", REMAT_POLICIES)
        if self.batch_size % self.grad_accumulation:
            raise InputError(
                f"train.grad_accumulation is {self.grad_accumulation}; it must divide "
                f"train.batch_size={self.batch_size}"
            )
        if not 0 <= self.ema_decay < 1:
            raise InputError(
                f"train.ema_decay is {self.ema_decay}; it must be at least 0 (none) and less than 1"
            )


@dataclass(frozen=True)
class ModelConfig:
    """The networks that are trained, and the weights from which training starts."""

    # Name of the networks' sizes in `star_jax.presets.PRESETS`.
    preset: str = "i2vgen-xl"
    # Directory made by `star-jax convert`. Training starts from its weights, and every start reads the frozen ones
    # from it. None starts from fresh weights, which are written to WORKDIR/initial.
    checkpoint: str | None = None
    # Directory with an autoencoder for fresh networks (`tiny-star` is the one in the package); None makes a fresh
    # autoencoder.
    vae_checkpoint: str | None = None
    # Dtype of the computation and of the frozen weights; `auto` is bfloat16 on accelerators and float32 on a CPU.
    # Trained weights are float32.
    dtype: str = "auto"
    # Attention kernel of every layer; see `star_jax.ops.attention`.
    attention: str = "auto"
    # The paper's ablations of LIEM; see `LiemConfig`.
    liem_spatial: bool = True
    liem_temporal: bool = True
    liem_position: str = LIEM_POSITIONS[0]
    # Also trains the base UNet, for a model that starts from random weights.
    train_base: bool = False
    # Rank of low-rank updates (LoRA) of all kernels of the networks, which are trained instead of the weights;
    # 0 trains the weights.
    lora_rank: int = 0
    # The updates are multiplied by lora_alpha / lora_rank; None multiplies by 1.
    lora_alpha: float | None = None
    # File of low-rank updates from which training starts (`star-jax assemble RUN FILE.safetensors`); None starts
    # from fresh ones.
    lora: str | None = None

    def __post_init__(self):
        _check_types("model", self)
        _check_least("model", self, "lora_rank", 0)
        if self.lora is not None and not self.lora_rank:
            raise InputError("model.lora is set, but model.lora_rank is 0; set it to the rank of that file")
        if self.lora_rank and self.train_base:
            raise InputError("model.train_base and model.lora_rank exclude each other; set only one of them")
        _check_choice("model", self, "dtype", DTYPES)
        self.star_config()

    def star_config(self) -> ArchitectureConfig:
        """The preset with the ablations applied.

        Raises:
          InputError: there is no such preset or LIEM position.
        """
        preset = get_preset(self.preset)
        liem = LiemConfig(self.liem_spatial, self.liem_temporal, self.liem_position)
        return preset.with_liem(liem)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW; the defaults are the released script's."""

    # Learning rate after the warmup.
    learning_rate: float = 5e-5
    # `constant`, or a decay to 0 at train.num_steps: `cosine` or `linear`.
    schedule: str = "constant"
    # Number of steps over which the learning rate rises linearly from 0.
    warmup_steps: int = 0
    # Other values for some of the weights: `PATTERN:key=value,...;PATTERN:...`, where a pattern matches paths such
    # as unet/down_blocks/0/liem1/kernel, and keys are learning_rate, schedule, warmup_steps and weight_decay, as in
    # `*liem*:learning_rate=2e-4,warmup_steps=500`. The first pattern that matches applies.
    groups: str = ""
    # Adam's constants.
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    # Decoupled decay of all trained weights.
    weight_decay: float = 1e-2
    # Largest norm of the gradient over all trained weights, above which it is clipped (the released script leaves
    # out the base UNet's LIEM); None does not clip.
    clip_norm: float | None = 1.0

    def __post_init__(self):
        _check_types("optimizer", self)
        _check_choice("optimizer", self, "schedule", SCHEDULES)
        for name in ("learning_rate", "warmup_steps", "epsilon", "weight_decay"):
            _check_least("optimizer", self, name, 0)
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"optimizer.{name} is {getattr(self, name)}; it must be at least 0 and less than 1"
                )
        self.parse_groups()
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(f"optimizer.clip_norm is {self.clip_norm}; choose a positive number, or None")

    def parse_groups(self) -> dict[str, "OptimizerConfig"]:
        """The settings of each pattern of `groups`, in order.

        Raises:
          InputError: `groups` does not have the form in the comment on it.
        """
        found = {}
        for group in filter(None, self.groups.split(";")):
            pattern, colon, changes = group.partition(":")
            values = dict(change.partition("=")[::2] for change in changes.split(","))
            if not (colon and pattern) or values.keys() - _GROUP_KEYS.keys():
                raise InputError(
                    f"optimizer.groups has {group!r}; write PATTERN:key=value,... with keys of "
                    f"{', '.join(_GROUP_KEYS)}"
                )
            try:
                typed = {key: _GROUP_KEYS[key](value) for key, value in values.items()}
            except ValueError as error:
                raise InputError(f"optimizer.groups has {group!r}: {error}") from error
            found[pattern.strip()] = dataclasses.replace(self, groups="", **typed)
        return found


@dataclass(frozen=True)
class ExperimentConfig:
    """A training run of STAR; the fields are the groups of a config file."""

    train: TrainConfig
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)


def from_groups(kind: type, groups: Mapping[str, Mapping[str, Any]]) -> Any:
    """Builds a configuration from plain values, such as those that a work directory records.

    Args:
      kind: dataclass of groups, such as `ExperimentConfig`.
      groups: group -> key -> value; missing keys get their defaults.

    Raises:
      InputError: a key is unknown or missing, or its value has the wrong type or is out of range.
    """
    kinds = typing.get_type_hints(kind)
    for group, keys in groups.items():
        if group not in kinds:
            raise InputError(f"config has an unknown group {group!r}{suggestion(group, kinds)}")
        if not isinstance(keys, Mapping):
            raise InputError(f"config.{group} is {keys!r}; it must be a group of keys")
    required = [f.name for f in dataclasses.fields(kind) if f.default_factory is dataclasses.MISSING]
    given = {**{name: {} for name in required}, **groups}
    return kind(**{group: _build(kinds[group], group, keys) for group, keys in given.items()})


def suggestion(name: str, known: Iterable[str]) -> str:
    """End of an error message about an unknown name: the most similar known name, or all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; choose one of {', '.join(known)}"


def _build(kind: type, group: str, keys: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    for key in keys:
        if key not in hints:
            raise InputError(f"config has an unknown key {group}.{key}{suggestion(key, hints)}")
    for f in dataclasses.fields(kind):
        if f.name not in keys and f.default is f.default_factory is dataclasses.MISSING:
            raise InputError(f"config has no {group}.{f.name}; set it")
    return kind(**{key: _typed(value, hints[key], f"{group}.{key}") for key, value in keys.items()})


def _typed(value: Any, hint: Any, path: str) -> Any:
    """Checks that a value has the key's type; an int may become a float, and a list from JSON a tuple."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        kind = typing.get_origin(option) or option
        if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if kind is tuple and isinstance(value, (list, tuple)):
            return tuple(value)
        if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
            return value
    names = ["None" if option is types.NoneType else option.__name__ for option in options]
    raise InputError(f"{path} is {value!r}; expected {' or '.join(names)}")


def _check_types(group: str, config: Any) -> None:
    for name, hint in typing.get_type_hints(type(config)).items():
        _typed(getattr(config, name), hint, f"{group}.{name}")


def _check_choice(group: str, config: Any, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(config, name)
    if value not in choices:
        raise InputError(f"{group}.{name} is {value!r}; choose one of {', '.join(choices)}")


def _check_least(group: str, config: Any, name: str, least: float) -> None:
    value = getattr(config, name)
    if not value >= least:
        raise InputError(f"{group}.{name} is {value}; it must be at least {least}")
