"""The sampler's step and the training step, traced for a mesh of devices that need not exist."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from star_jax.config import ArchitectureConfig
from star_jax.diffusion.guidance import Conditioning
from star_jax.diffusion.noise import sde_noise
from star_jax.diffusion.sampler import run_rows
from star_jax.diffusion.solvers import SamplerState
from star_jax.diffusion.windows import make_windows
from star_jax.inference.settings import UpscaleSettings
from star_jax.models.architectures import build_model
from star_jax.ops.platform import targeting
from star_jax.parallel.activations import CONTEXT_AXIS
from star_jax.parallel.mesh import param_shardings, replicated
from star_jax.train.objective import Objective
from star_jax.train.optimizer import make_optimizer
from star_jax.train.state import abstract_state
from star_jax.train.step import abstract_arguments, jit_train_step, make_train_step, with_shardings
from star_jax.train.turns import turns_of


def trace_sampler_step(
    config: ArchitectureConfig, mesh: Mesh, *, num_frames: int, height: int, width: int
) -> jax.stages.Traced:
    """One step of the guided sampler (of a row of the solver's table), bfloat16, as `StarPipeline` runs it.

    Both branches of the guidance are one batch of 2, which the mesh's axis `data` may split. Weights are whole on
    every device, or split over `fsdp`.

    Args:
      config: sizes.
      mesh: devices of a TPU topology.
      num_frames, height, width: size of the upscaled clip in pixels, padded to what the network takes.
    """
    with targeting("tpu"):
        model = build_model(config, dtype="auto")
    rule = model.size_rule
    num_latents = rule.num_latents(num_frames)
    latent_size = rule.latent_size(*rule.padded_size(height, width))
    params = model.abstract_params(model.network_components)
    whole = jax.tree.map(lambda _: replicated(mesh), params)
    params = with_shardings(params, param_shardings(mesh, params) if mesh.shape["fsdp"] > 1 else whole)

    def array(shape: tuple[int, ...], dtype: Any = jnp.float32, *axes: str | None) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*axes)))

    frames = (None, CONTEXT_AXIS) if num_latents % mesh.shape[CONTEXT_AXIS] == 0 else ()
    latents = array((1, num_latents, *latent_size, model.latent_channels), jnp.float32, *frames)
    embeddings = array((1, *model.context_shape), model.dtype)
    text = jax.tree.map(
        lambda x: array(x.shape, x.dtype),
        jax.eval_shape(model.condition, params, embeddings),
    )
    settings = UpscaleSettings()
    table = model.solver_table(
        solver=settings.solver,
        spacing=settings.resolved_spacing,
        num_inference_steps=settings.num_inference_steps,
    )
    guided = model.is_guided(settings.guidance_scale)
    scale = array(np.shape(model.guidance_scales(settings.guidance_scale, table)))
    conditioning = Conditioning(text, latents, text if guided else None, scale, array(()))
    rows = jax.tree.map(lambda column: array(column.shape, column.dtype), table.slice(0, 1))
    key = array((), jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32")).dtype)
    with jax.set_mesh(mesh), targeting("tpu"):
        return run_rows.trace(
            model,
            params,
            SamplerState(latents, latents),
            rows,
            conditioning,
            key,
            windows=make_windows(num_latents, max(2, num_latents)),
            noise_fn=sde_noise,
        )


def trace_train_step(objective: Objective, config: Any, mesh: Mesh) -> jax.stages.Traced:
    """The training step of an experiment, with the shardings that `star-jax train` gives it.

    Args:
      objective: the objective, as for `star_jax.train.loop.train`.
      config: an `ExperimentConfig`; its mesh is replaced by `mesh`.
      mesh: devices of a TPU topology.

    Raises:
      InputError: the mesh does not divide the batch.
    """
    train = config.train
    optimizer = make_optimizer(config.optimizer, train.num_steps, turns_of(objective))
    state = abstract_state(objective.abstract_params()[0], optimizer, ema_decay=train.ema_decay)
    with jax.set_mesh(mesh), targeting("tpu"):
        arguments = abstract_arguments(objective, state, train.batch_size, mesh)
        step = jit_train_step(make_train_step(objective, optimizer, train), mesh, state)
        return step.trace(*arguments)
