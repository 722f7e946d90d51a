"""Settings of a training run as frozen dataclasses, and their way from a config file and the command line.

A config file has `get_config(arg)`, which returns an ml_collections ConfigDict of groups (`train`, `data`, `model`,
`diffusion`, `optimizer`, `mesh`). Here it becomes one `ExperimentConfig`; nothing behind this file sees the
ConfigDict.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from star_jax.config import LIEM_POSITIONS, LiemConfig, StarConfig
from star_jax.data.config import DataConfig
from star_jax.diffusion.losses import LossConfig
from star_jax.errors import InputError
from star_jax.ops.remat import REMAT_POLICIES
from star_jax.parallel.mesh import MeshConfig
from star_jax.presets import get_preset

SCHEDULES = ("constant", "cosine", "linear")
DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class TrainConfig:
    """The run.

    Attributes:
      num_steps: updates of the weights in all, resumed ones included.
      batch_size: clips per update, over all devices and processes.
      grad_accumulation: pieces a batch is cut into, one after the other; memory is that of a piece.
      seed: of timesteps, noise, dropout and fresh weights (data.seed: of the data).
      ema_decay: of the averaged weights; 0 keeps none.
      remat: what is recomputed in the backward pass: `none`, `dots` (all but matrix products), `full`.
      log_every_steps: steps whose metrics are averaged into one line.
      checkpoint_every_steps: steps between checkpoints; one more is saved at the end.
      keep_checkpoints: newest checkpoints kept.
      keep_every_steps: checkpoints at multiples of it are kept for ever; 0: none.
      validate_every_steps: steps between validations; 0: never.
      validation_source: clips to validate on (see `data.source`); None takes the training source's, undisturbed.
      validation_batches: batches of a validation, the same ones each time.
      profile_start_step, profile_steps: window that jax.profiler records into workdir/profile; 0 steps: none.
    """

    num_steps: int
    batch_size: int
    grad_accumulation: int = 1
    seed: int = 0
    ema_decay: float = 0.0
    remat: str = "full"
    log_every_steps: int = 10
    checkpoint_every_steps: int = 500
    keep_checkpoints: int = 3
    keep_every_steps: int = 0
    validate_every_steps: int = 0
    validation_source: str | None = None
    validation_batches: int = 1
    profile_start_step: int = 10
    profile_steps: int = 0

    def __post_init__(self):
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
            "profile_start_step",
            "profile_steps",
        ):
            _check_least("train", self, name, 0)
        _check_choice("train", self, "remat", REMAT_POLICIES)
        if self.batch_size % self.grad_accumulation:
            raise InputError(
                f"train.grad_accumulation is {self.grad_accumulation}; it must divide "
                f"train.batch_size={self.batch_size}"
            )
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"train.ema_decay is {self.ema_decay}; choose 0 (none) up to, but not, 1")


@dataclass(frozen=True)
class ModelConfig:
    """The networks.

    Attributes:
      preset: sizes; see `star_jax.presets.PRESETS`.
      checkpoint: directory made by `star-jax convert` that training starts from, and that the frozen networks are
        read from at every start; None: fresh weights, written to WORKDIR/initial.
      vae_checkpoint: without a checkpoint, the directory (`tiny-star`: the one in the package) whose autoencoder
        the fresh networks get; None: a fresh one.
      dtype: of the computation and of the frozen weights; `auto`: bfloat16 on accelerators, float32 on a CPU.
        Trained weights are float32.
      attention: kernel of every site; see `star_jax.ops.attention`.
      liem_spatial, liem_temporal, liem_position: the paper's ablations; see `LiemConfig`.
      train_base: also trains the base UNet, for a model that starts from random weights.
    """

    preset: str = "i2vgen-xl"
    checkpoint: str | None = None
    vae_checkpoint: str | None = None
    dtype: str = "auto"
    attention: str = "auto"
    liem_spatial: bool = True
    liem_temporal: bool = True
    liem_position: str = LIEM_POSITIONS[0]
    train_base: bool = False

    def __post_init__(self):
        _check_choice("model", self, "dtype", DTYPES)
        self.star_config()

    def star_config(self) -> StarConfig:
        """The preset with the ablations applied.

        Raises:
          InputError: no such preset or LIEM position.
        """
        preset = get_preset(self.preset)
        liem = LiemConfig(self.liem_spatial, self.liem_temporal, self.liem_position)
        return preset.with_liem(liem)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW; the defaults are the released script's.

    Attributes:
      learning_rate: after the warmup.
      schedule: `constant`, or down to 0 at train.num_steps: `cosine`, `linear`.
      warmup_steps: linear from 0.
      b1, b2, epsilon: Adam's.
      weight_decay: decoupled, of all trained weights.
      clip_norm: largest norm of the gradient over all trained weights (the released script leaves the base
        UNet's LIEM out); None: not clipped.
    """

    learning_rate: float = 5e-5
    schedule: str = "constant"
    warmup_steps: int = 0
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 1e-2
    clip_norm: float | None = 1.0

    def __post_init__(self):
        _check_choice("optimizer", self, "schedule", SCHEDULES)
        for name in ("learning_rate", "warmup_steps", "epsilon", "weight_decay"):
            _check_least("optimizer", self, name, 0)
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"optimizer.{name} is {getattr(self, name)}; choose 0 up to, but not, 1")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(f"optimizer.clip_norm is {self.clip_norm}; choose a positive number, or None")


@dataclass(frozen=True)
class ExperimentConfig:
    """A training run of STAR; the groups of a config file."""

    train: TrainConfig
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)


def parse_experiment(
    values: Mapping[str, Any], overrides: Mapping[str, str] | None = None, kind: type = ExperimentConfig
) -> Any:
    """Builds a run's configuration from a config file's values and the command line's texts.

    Args:
      values: group -> key -> value, such as a ConfigDict.
      overrides: "train.num_steps" -> text; texts are read as the key's type ("None" where it may be None).
      kind: dataclass of groups.

    Raises:
      InputError: an unknown, missing or badly typed key, or a value out of range; the key is named.
    """
    groups = typing.get_type_hints(kind)
    merged = {}
    for group, keys in values.items():
        if group not in groups:
            raise InputError(f"config has an unknown group {group!r}{_hint(group, groups)}")
        if not isinstance(keys, Mapping) and not hasattr(keys, "items"):
            raise InputError(f"config.{group} is {keys!r}; expected a group of keys")
        merged[group] = dict(keys.items())
    for path, text in (overrides or {}).items():
        group, _, key = path.partition(".")
        if group in groups and not key:
            raise InputError(
                f"--config.{path}: a group; name a key of it, such as --config.{path}.KEY={text}"
            )
        if group not in groups:
            raise InputError(f"--config.{path}: no such key{_hint(group, groups)}")
        hint = _hint_of(groups[group], group, key)
        merged.setdefault(group, {})[key] = _parse_text(text, hint, path)
    return kind(**{group: _build(groups[group], group, keys) for group, keys in _all(kind, merged)})


def _all(kind: type, merged: dict[str, dict]) -> list[tuple[str, dict]]:
    """The given groups, and the required ones, whose missing keys are then named."""
    required = [f.name for f in dataclasses.fields(kind) if f.default_factory is dataclasses.MISSING]
    return [(name, merged.get(name, {})) for name in {**dict.fromkeys(required), **merged}]


def _build(kind: type, group: str, keys: dict[str, Any]) -> Any:
    values = {
        key: _check_type(value, _hint_of(kind, group, key), f"{group}.{key}") for key, value in keys.items()
    }
    for f in dataclasses.fields(kind):
        if f.name not in values and f.default is f.default_factory is dataclasses.MISSING:
            raise InputError(
                f"config has no {group}.{f.name}; set it in the file, or by --config.{group}.{f.name}=..."
            )
    return kind(**values)


def _hint_of(kind: type, group: str, key: str) -> Any:
    hints = typing.get_type_hints(kind)
    if key not in hints:
        raise InputError(f"config has an unknown key {group}.{key}{_hint(key, hints)}")
    return hints[key]


def _hint(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _check_type(value: Any, hint: Any, path: str) -> Any:
    """The value, an int as a float where floats are wanted."""
    for option in _options(hint):
        if option is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, option) and not (isinstance(value, bool) and option is not bool):
            return value
    raise InputError(f"{path} is {value!r}; expected {_names(hint)}")


def _parse_text(text: str, hint: Any, path: str) -> Any:
    options = _options(hint)
    if types.NoneType in options and text == "None":
        return None
    (kind,) = (option for option in options if option is not types.NoneType)
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        if kind is not bool:
            return kind(text)
    except ValueError:
        pass
    raise InputError(f"--config.{path}={text}: expected {_names(hint)}")


def _names(hint: Any) -> str:
    return " or ".join("None" if option is types.NoneType else option.__name__ for option in _options(hint))


def _check_choice(group: str, config: Any, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(config, name)
    if value not in choices:
        raise InputError(f"{group}.{name} is {value!r}; choose one of {', '.join(choices)}")


def _check_least(group: str, config: Any, name: str, least: float) -> None:
    value = getattr(config, name)
    if not value >= least:
        raise InputError(f"{group}.{name} is {value}; it must be at least {least}")
