"""The programs of upscaling and training, traced for a mesh of devices that need not exist."""

from collections.abc import Callable
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
from star_jax.inference.pieces import Canvas, Finish, decode_chunk, encode_chunk
from star_jax.inference.settings import UpscaleSettings
from star_jax.models.architectures import build_model
from star_jax.models.chunks import Chunk
from star_jax.models.video_model import VideoModel
from star_jax.ops.platform import targeting
from star_jax.parallel.activations import CONTEXT_AXIS
from star_jax.parallel.mesh import replicated
from star_jax.parallel.weights import param_shardings
from star_jax.train.objective import Objective
from star_jax.train.optimizer import make_optimizer
from star_jax.train.state import abstract_state
from star_jax.train.step import abstract_arguments, jit_train_step, make_train_step, with_shardings
from star_jax.train.turns import turns_of


def _platform(mesh: Mesh) -> str:
    """`gpu` or `tpu`; CPU devices stand in for TPUs when a program is only traced, to count its operations."""
    return "gpu" if mesh.devices.flat[0].platform in ("gpu", "cuda") else "tpu"


def trace_sampler_step(
    config: ArchitectureConfig, mesh: Mesh, *, num_frames: int, height: int, width: int
) -> jax.stages.Traced:
    """One step of the guided sampler (one row of the solver's table) in bfloat16, as `StarPipeline` runs it.

    Both branches of guidance are one batch of 2, which the mesh's axis `data` may split. Weights are replicated on
    every device, or split over `fsdp`.

    Args:
      config: sizes.
      mesh: devices of a topology.
      num_frames, height, width: size of the upscaled clip in pixels; padded to a size that the network takes.
    """
    with targeting(_platform(mesh)):
        model = build_model(config, dtype="auto")
    rule = model.size_rule
    num_latents = rule.num_latents(num_frames)
    latent_size = rule.latent_size(*rule.padded_size(height, width))
    params = model.abstract_params(model.network_components)
    whole = jax.tree.map(lambda _: replicated(mesh), params)
    params = with_shardings(params, param_shardings(mesh, params) if mesh.shape["fsdp"] > 1 else whole)

    def array(shape: tuple[int, ...], dtype: Any = jnp.float32, *axes: str | None) -> Any:
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
    key = array((), _key_dtype())
    with jax.set_mesh(mesh), targeting(_platform(mesh)):
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


def trace_encoder(
    config: ArchitectureConfig, mesh: Mesh, *, num_frames: int, height: int, width: int
) -> jax.stages.Traced:
    """The encoder on whole frames of a clip's longest chunk, as `StarPipeline` runs it on one device.

    Args:
      config: sizes.
      mesh: one device of a topology.
      num_frames, height, width: size of the upscaled clip in pixels.
    """
    model, settings, canvas, array = _whole_frames(config, mesh, height, width)
    chunk = max(model.encode_chunks(num_frames))
    frames = array((chunk, *_input_size(canvas.target, settings.scale), 3), jnp.uint8)
    key = array((), _key_dtype())
    with jax.set_mesh(mesh), targeting(_platform(mesh)):
        return encode_chunk.trace(
            model, canvas, _autoencoder(model, mesh), frames, None, key, array((), jnp.int32)
        )


def trace_decoder(
    config: ArchitectureConfig, mesh: Mesh, *, num_frames: int, height: int, width: int
) -> jax.stages.Traced:
    """The decoder on the chunk of a clip that needs the most memory: a later one with its carry, if there is one.

    For the arguments see `trace_encoder`.
    """
    model, settings, canvas, array = _whole_frames(config, mesh, height, width)
    rule, params = model.size_rule, _autoencoder(model, mesh)
    first, *later = model.decode_chunks(rule.padded_frames(num_frames), settings.decode_overlap)
    carry, chunk = None, first

    def latents(chunk: Chunk) -> jax.ShapeDtypeStruct:
        start, stop = chunk.latents
        return array((1, stop - start, *canvas.tiles.full, model.latent_channels))

    if later:
        chunk = later[0]
        carry = jax.eval_shape(model.decode, params, latents(first))[1]
        carry = jax.tree.map(lambda leaf: array(leaf.shape, leaf.dtype), carry)
    frames_lr = array((chunk.kept, *_input_size(canvas.target, settings.scale), 3), jnp.uint8)
    finish = Finish(settings.color_fix, settings.strength)
    with jax.set_mesh(mesh), targeting(_platform(mesh)):
        return decode_chunk.trace(
            model, canvas, finish, params, latents(chunk), carry, array((), jnp.int32), frames_lr
        )


def _whole_frames(
    config: ArchitectureConfig, mesh: Mesh, height: int, width: int
) -> tuple[VideoModel, UpscaleSettings, Canvas, Callable[..., jax.ShapeDtypeStruct]]:
    """The model, default settings, frames as one tile, and a function that makes replicated abstract arrays."""
    with targeting(_platform(mesh)):
        model = build_model(config, dtype="auto")
    settings, rule = UpscaleSettings(), model.size_rule
    padding = settings.padding_of(rule, height, width)
    size = rule.latent_size(*padding.padded_size(height, width))
    canvas = Canvas((height, width), padding, settings.padding_value, settings.vae_tiles_of(rule, size))

    def array(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=replicated(mesh))

    return model, settings, canvas, array


def _autoencoder(model: VideoModel, mesh: Mesh) -> Any:
    params = model.abstract_params(model.autoencoder_components)
    return with_shardings(params, jax.tree.map(lambda _: replicated(mesh), params))


def _input_size(target: tuple[int, int], scale: float) -> tuple[int, int]:
    return round(target[0] / scale), round(target[1] / scale)


def _key_dtype() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32")).dtype


def trace_train_step(objective: Objective, config: Any, mesh: Mesh) -> jax.stages.Traced:
    """The training step of an experiment, with the shardings of `star-jax train`.

    Args:
      objective: the objective, as for `star_jax.train.loop.train`.
      config: an `ExperimentConfig`; its mesh is replaced by `mesh`.
      mesh: devices of a topology.

    Raises:
      InputError: the mesh does not divide the batch.
    """
    train = config.train
    optimizer = make_optimizer(config.optimizer, train.num_steps, turns_of(objective))
    state = abstract_state(objective.abstract_params()[0], optimizer, ema_decay=train.ema_decay)
    with jax.set_mesh(mesh), targeting(_platform(mesh)):
        arguments = abstract_arguments(objective, state, train.batch_size, mesh)
        step = jit_train_step(make_train_step(objective, optimizer, train), mesh, state)
        return step.trace(*arguments)
