"""A StarObjective on a network of one level, with random weights and clips, for tests."""

from dataclasses import fields
from functools import cache

import jax
import numpy as np
from one_level import ONE_LEVEL
from random_trees import random_tree

from star_jax.data.config import DataConfig
from star_jax.diffusion.losses import LossConfig
from star_jax.diffusion.noise import noise_key
from star_jax.models.i2vgenxl.model import I2VGenXL
from star_jax.train.config import ModelConfig, TrainConfig
from star_jax.train.star.objective import StarObjective

FRAMES, HEIGHT, WIDTH = 4, 12, 8
KEY = noise_key(3)


def make_objective(loss: LossConfig | None = None, *, checkpoint=None, model=None, **data) -> StarObjective:
    sizes = {"num_frames": FRAMES, "height": HEIGHT, "width": WIDTH, **data}
    return StarObjective(
        model or ModelConfig(ONE_LEVEL.preset, checkpoint=checkpoint),
        loss or LossConfig(),
        DataConfig("synthetic:4", **sizes),
        TrainConfig(num_steps=1, batch_size=2, remat="none"),
    )


@cache
def weights():
    """(trainable, frozen)."""
    return tuple(random_tree(tree, seed) for seed, tree in enumerate(make_objective().abstract_params()))


@cache
def two_clips() -> dict[str, np.ndarray]:
    """A prepared batch of noise."""
    rng = np.random.default_rng(0)
    objective = make_objective()
    host = {
        name: rng.integers(0, 256, leaf.shape, np.uint8) if leaf.dtype == np.uint8 else np.array([7, 40])
        for name, leaf in objective.abstract_batch(2).items()
    }
    return objective.prepare_batch({**host, "text": ["", ""], "key": ["a", "b"]})


def with_stub_network(objective: StarObjective) -> StarObjective:
    """An objective whose network is a function of the noisy latents, and of noise where there is dropout."""

    objective.model = StubNetwork(
        **{f.name: getattr(objective.model, f.name) for f in fields(objective.model)}
    )
    return objective


class StubNetwork(I2VGenXL):
    def velocity(self, params, x, *args, dropout_key=None):
        return 0.3 * x if dropout_key is None else 0.3 * x + jax.random.normal(dropout_key, x.shape)
