"""The kinds of training runs: the objective for each class of configuration."""

import os
from typing import Any

from star_jax.train.config import ExperimentConfig, from_groups
from star_jax.train.distill.config import DualStreamExperiment, GuidanceExperiment, OneStepExperiment
from star_jax.train.distill.dual_stream import DualStreamObjective
from star_jax.train.distill.guidance import GuidanceObjective
from star_jax.train.distill.one_step import OneStepObjective
from star_jax.train.star.objective import StarObjective
from star_jax.train.workdir import read_workdir_config

_RUNGS: dict[str, tuple[type[ExperimentConfig], Any]] = {
    "guidance": (GuidanceExperiment, GuidanceObjective),
    "one_step": (OneStepExperiment, OneStepObjective),
    "dual_stream": (DualStreamExperiment, DualStreamObjective),
}


def make_objective(config: ExperimentConfig) -> StarObjective:
    """Makes the objective of a configuration.

    Raises:
      InputError: the networks do not support the data's sizes, or the checkpoint does not fit.
    """
    for kind, objective in _RUNGS.values():
        if type(config) is kind:
            return objective(config)
    return StarObjective(config.model, config.diffusion, config.data, config.train)


def read_experiment_config(workdir: str | os.PathLike) -> ExperimentConfig:
    """Reads the configuration of a run's last start.

    Raises:
      InputError: `workdir` is not a work directory of `star-jax train`.
    """
    groups = read_workdir_config(workdir)
    rung = groups.get("distill", {}).get("rung")
    return from_groups(_RUNGS[rung][0] if rung in _RUNGS else ExperimentConfig, groups)
