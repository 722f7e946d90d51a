"""Speed and memory of the training step, with random weights and random clips."""

import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from star_jax.benchmark.quiet import quiet
from star_jax.benchmark.report import memory, throughput
from star_jax.benchmark.timing import Timing
from star_jax.diffusion.noise import noise_key
from star_jax.errors import InputError
from star_jax.init.random_params import random_params
from star_jax.ops.flops import compiled_flops
from star_jax.parallel.mesh import make_mesh, replicated
from star_jax.parallel.weights import param_shardings
from star_jax.train.config import ExperimentConfig
from star_jax.train.objective import Objective
from star_jax.train.operations import step_flops
from star_jax.train.optimizer import Optimizer, make_optimizer
from star_jax.train.state import abstract_state, new_state
from star_jax.train.step import abstract_arguments, jit_train_step, make_train_step, with_shardings
from star_jax.train.turns import turns_of


def measure_training(
    objective: Objective, config: ExperimentConfig, *, repeats: int = 5, device_peak: float | None = None
) -> dict[str, Any]:
    """Compiles and times the step that `star-jax train` would run with this configuration; reads no files.

    Args:
      objective: the objective, which gives shapes and loss.
      config: configuration of the experiment; only the sizes of its data are used.
      repeats: number of measured steps.
      device_peak: TFLOP/s of one device, instead of the table's.

    Returns:
      The same keys as `measure_inference`; `tflop_per_step` counts all devices, without the recomputation of remat.

    Raises:
      InputError: `repeats` is less than 1, or the mesh does not fit the devices or the batch.
    """
    if repeats < 1:
        raise InputError(f"repeats is {repeats}; choose at least 1")
    data = config.data
    mesh = make_mesh(config.mesh)
    optimizer = make_optimizer(config.optimizer, config.train.num_steps, turns_of(objective))
    with jax.set_mesh(mesh):
        timing, compiled = _time_step(objective, optimizer, config, mesh, repeats)
    frames = config.train.batch_size * data.num_frames
    compiled_count = compiled_flops(compiled)
    return {
        "benchmark": "train",
        "component": "train-step",
        "preset": config.model.star_config().preset,
        "frames": data.num_frames,
        "height": data.height,
        "width": data.width,
        "batch": config.train.batch_size,
        "mesh": dict(mesh.shape),
        "remat": config.train.remat,
        "dtype": config.model.dtype,
        "attention": config.model.attention,
        **timing.report(),
        "seconds_per_frame": timing.median / frames,
        "frames_per_second": frames / timing.median,
        "clips_per_second": config.train.batch_size / timing.median,
        **throughput(
            step_flops(objective, config.train.batch_size),
            timing.median,
            num_devices=mesh.size,
            device_peak=device_peak,
        ),
        "tflop_compiled": compiled_count and compiled_count * mesh.size / 1e12,
        **memory(compiled),
    }


def _time_step(
    objective: Objective, optimizer: Optimizer, config: ExperimentConfig, mesh: Mesh, repeats: int
) -> tuple[Timing, jax.stages.Compiled]:
    """Times consecutive steps as in training, with a donated state."""
    trainable, frozen = (
        random_params(with_shardings(tree, param_shardings(mesh, tree)))
        for tree in objective.abstract_params()
    )
    decay = config.train.ema_decay
    abstract = abstract_state(objective.abstract_params()[0], optimizer, ema_decay=decay)
    init = jax.jit(
        lambda params: new_state(params, optimizer, ema_decay=decay),
        out_shardings=param_shardings(mesh, abstract),
        donate_argnums=0,
    )
    state = init(trainable)
    shapes = abstract_arguments(objective, abstract, config.train.batch_size, mesh)[2]
    batch = {name: _made_up(leaf) for name, leaf in shapes.items()}
    key = jax.device_put(noise_key(config.train.seed), replicated(mesh))
    start = time.perf_counter()
    lowered = jit_train_step(make_train_step(objective, optimizer, config.train), mesh, abstract).lower(
        state, frozen, batch, key
    )
    traced = time.perf_counter()
    compiled = lowered.compile()
    ready = time.perf_counter()
    seconds = []
    with quiet():
        for _ in range(1 + repeats):
            begun = time.perf_counter()
            state, metrics = compiled(state, frozen, batch, key)
            jax.block_until_ready((state, metrics))
            seconds.append(time.perf_counter() - begun)
    return Timing(tuple(seconds[1:]), traced - start, ready - traced, seconds[0]), compiled


def _made_up(leaf: jax.ShapeDtypeStruct | jax.Array) -> jax.Array:
    """A random leaf: integers below 256 (pixels, token IDs, positions), or small normal numbers (latents)."""

    def make(key: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jax.random.randint(key, leaf.shape, 0, 256, jnp.int32).astype(leaf.dtype)
        return (0.1 * jax.random.normal(key, leaf.shape)).astype(leaf.dtype)

    return jax.jit(make, out_shardings=leaf.sharding)(jax.random.key(0))
