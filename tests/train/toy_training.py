"""A task of a few numbers for tests of the loop: a linear map restores the mean colours of the ground truth."""

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.data.config import DataConfig
from star_jax.parallel.mesh import MeshConfig
from star_jax.train.config import ExperimentConfig, OptimizerConfig, TrainConfig

FRAMES, SIZE, WIDTH = 2, 16, 128


class ToyObjective:
    """Implements star_jax.train.objective.Objective.

    Args:
      poison: step (of this start) whose batch is not a number.
    """

    def __init__(self, poison: int | None = None):
        self.poison, self.prepared = poison, 0

    def abstract_params(self):
        def leaf(*shape):
            return jax.ShapeDtypeStruct(shape, jnp.float32)

        trainable = {
            "controlnet": {"kernel": leaf(WIDTH, WIDTH), "bias": leaf(WIDTH)},
            "unet": {"blocks": {0: {"liem1": {"kernel": leaf(2, 1)}}}},
        }
        return trainable, {"unet": {"blocks": {0: {"kernel": leaf(3, WIDTH)}}, "out": leaf(WIDTH, 3)}}

    def load(self, abstract_trainable, abstract_frozen):
        random = np.random.default_rng(0)

        def make(leaf):
            values = random.standard_normal(leaf.shape).astype(leaf.dtype) * 0.1
            return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: values[index])

        return jax.tree.map(make, abstract_trainable), jax.tree.map(make, abstract_frozen)

    def prepare_batch(self, host_batch):
        self.prepared += 1
        scale = np.nan if self.prepared == self.poison else 1.0
        return {
            "gt": np.asarray(host_batch["gt"], np.float32) * np.float32(scale),
            "index": np.asarray(host_batch["index"], np.int32),
        }

    def abstract_batch(self, batch_size):
        return {
            "gt": jax.ShapeDtypeStruct((batch_size, FRAMES, SIZE, SIZE, 3), jnp.float32),
            "index": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        }

    def loss(self, trainable, frozen, batch, key):
        pixels = batch["gt"] / 127.5 - 1
        keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(batch["index"])
        noise = jax.vmap(lambda one: jax.random.normal(one, (1, 1, 1, 3)))(keys)
        hidden = (pixels + noise) @ frozen["unet"]["blocks"][0]["kernel"]
        gate = jax.nn.sigmoid(trainable["unet"]["blocks"][0]["liem1"]["kernel"].sum())
        hidden = jnp.tanh(hidden @ trainable["controlnet"]["kernel"] + trainable["controlnet"]["bias"]) * gate
        loss = jnp.mean((hidden @ frozen["unet"]["out"] - pixels) ** 2)
        return loss, {"loss_velocity": loss}

    def validate(self, trainable, frozen, batches, image_path):
        losses = [self.loss(trainable, frozen, batch, jax.random.key(0))[0] for batch in batches]
        if image_path is not None:
            image_path.write_text("picture")
        return {"validation_loss": float(sum(losses) / len(losses))}


def toy_config(mesh: MeshConfig | None = None, optimizer: OptimizerConfig | None = None, **train):
    """A run of 6 steps with a checkpoint after each."""
    values = {
        "num_steps": 6,
        "batch_size": 8,
        "checkpoint_every_steps": 1,
        "log_every_steps": 2,
        "curves": False,
    }
    data = DataConfig(
        "synthetic:9", recipe="none", num_frames=FRAMES, frame_interval=1, height=SIZE, width=SIZE
    )
    return ExperimentConfig(
        TrainConfig(**{**values, "ema_decay": 0.9, **train}),
        data,
        optimizer=optimizer or OptimizerConfig(learning_rate=1e-2),
        mesh=mesh or MeshConfig(),
    )
