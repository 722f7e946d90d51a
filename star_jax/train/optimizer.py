"""AdamW with a learning-rate schedule and gradient clipping, built with optax."""

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import optax

from star_jax.checkpoints.trees import flatten, unflatten
from star_jax.train.config import OptimizerConfig
from star_jax.train.small_weights import small_as_one
from star_jax.train.turns import Turns

_OTHERS = "others"  # label of weights that no pattern matches


@dataclass(frozen=True)
class Optimizer:
    """Turns gradients into updates.

    Attributes:
      transform: the optax transformation; its state has the shapes of the trained weights.
      learning_rate: step -> learning rate of the weights that are in no group, for the metrics.
    """

    transform: optax.GradientTransformation
    learning_rate: optax.Schedule


def make_optimizer(config: OptimizerConfig, num_steps: int, turns: Turns | None = None) -> Optimizer:
    """Builds the optimizer of a run of `num_steps`; gradients are clipped over all groups at once.

    If parts of the weights take turns, `turns` has the settings of an optimizer for each part, whose schedule
    counts the updates of that part.
    """
    if turns is None:
        return _whole(config, num_steps)
    parts = {
        name: _whole(part.optimizer, turns.updates(name, num_steps)) for name, part in turns.parts.items()
    }
    first = next(iter(parts))
    return Optimizer(
        optax.partition(
            {name: part.transform for name, part in parts.items()},
            lambda params: {component: turns.part_of(component) for component in params},
        ),
        lambda step: parts[first].learning_rate(
            step * turns.updates(first, len(turns.order)) // len(turns.order)
        ),
    )


def _whole(config: OptimizerConfig, num_steps: int) -> Optimizer:
    schedule = _schedule(config, num_steps)
    clip = optax.identity() if config.clip_norm is None else optax.clip_by_global_norm(config.clip_norm)
    groups = config.parse_groups()
    if not groups:
        return Optimizer(small_as_one(optax.chain(clip, _adamw(config, num_steps))), schedule)
    transforms = {pattern: small_as_one(_adamw(group, num_steps)) for pattern, group in groups.items()}
    transforms[_OTHERS] = small_as_one(_adamw(config, num_steps))

    def labels(tree: Any) -> Any:
        return unflatten({path: _label(path, groups) for path in flatten(tree)})

    return Optimizer(optax.chain(small_as_one(clip), optax.partition(transforms, labels)), schedule)


def _label(path: str, patterns: Iterable[str]) -> str:
    return next((pattern for pattern in patterns if fnmatch.fnmatchcase(path, pattern)), _OTHERS)


def _adamw(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    return optax.adamw(
        _schedule(config, num_steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
    )


def _schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    rest = max(1, num_steps - config.warmup_steps)
    after = {
        "constant": lambda: optax.constant_schedule(config.learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(config.learning_rate, rest),
        "linear": lambda: optax.linear_schedule(config.learning_rate, 0.0, rest),
    }[config.schedule]()
    if not config.warmup_steps:
        return after
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])
