"""Speed and memory of inference: one network at a time, or the whole pipeline."""

import dataclasses
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from star_jax.benchmark import flops
from star_jax.benchmark.flops import FlopCount
from star_jax.benchmark.report import memory, throughput
from star_jax.benchmark.timing import time_program
from star_jax.checkpoints.directory import load_component, read_config
from star_jax.config import StarConfig
from star_jax.errors import InputError
from star_jax.inference.pipeline import PIECE, StarPipeline, resolve_dtype
from star_jax.inference.settings import UpscaleSettings
from star_jax.init.random_params import random_params
from star_jax.models.clip.tokenizer import load_tokenizer, write_byte_level_tokenizer
from star_jax.models.components import abstract_component, component_names
from star_jax.models.i2vgenxl.velocity import star_velocity
from star_jax.ops.attention import AttentionKernels
from star_jax.parallel.mesh import parse_mesh
from star_jax.parallel.placement import Placement
from star_jax.presets import get_preset

COMPONENTS = ("unet", "vae-encode", "vae-decode", "text", "pipeline")


@dataclasses.dataclass(frozen=True)
class InferenceBenchmark:
    """What to measure.

    Attributes:
      component: `unet` (UNet and ControlNet, one evaluation), `vae-encode` and `vae-decode` (one piece of frames),
        `text` (both prompts), or `pipeline` (a whole clip, from frames to frames).
      preset: sizes of the networks, with random weights; a checkpoint's own count if one is given.
      checkpoint: directory to take weights from.
      frames, height, width: of the result, in pixels; padded to what the networks take.
      steps: of the pipeline.
      batch: clips that `unet` evaluates at once; guidance runs 2.
      dtype: as of `StarPipeline`; the VAE runs in float32.
      attention: kernel for every site.
      max_memory: bytes that the pipeline may plan with; None is what the device has.
      mesh: axes such as `data=2,context=4` that spread the networks over all devices; None uses one.
      repeats: measured steps.
      device_peak: TFLOP/s of one device in place of the table's.
    """

    component: str = "unet"
    preset: str = "i2vgen-xl"
    checkpoint: str | None = None
    frames: int = 32
    height: int = 720
    width: int = 1280
    steps: int = 15
    batch: int = 1
    dtype: str = "auto"
    attention: str = "auto"
    max_memory: int | None = None
    mesh: str | None = None
    repeats: int = 5
    device_peak: float | None = None

    def __post_init__(self):
        if self.component not in COMPONENTS:
            raise InputError(f"component is {self.component!r}; choose one of {', '.join(COMPONENTS)}")
        for name in ("frames", "height", "width", "steps", "batch", "repeats"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; choose at least 1")
        if self.device_peak is not None and self.device_peak <= 0:
            raise InputError(f"peak-tflops is {self.device_peak}; it must be positive")
        if self.mesh is not None:
            parse_mesh(self.mesh)  # refused before anything is loaded

    @property
    def config(self) -> StarConfig:
        return get_preset(self.preset) if self.checkpoint is None else read_config(self.checkpoint)

    @property
    def padded_size(self) -> tuple[int, int]:
        """(height, width) that the networks see, in pixels."""
        return UpscaleSettings().padding_of(self.height, self.width).padded_size(self.height, self.width)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(frames, height, width) of the latents."""
        height, width = self.padded_size
        factor = self.config.vae.spatial_factor
        return self.frames, height // factor, width // factor

    def count(self) -> FlopCount:
        """Operations of a step, counted from the sizes."""
        config, size = self.config, self.padded_size
        piece = min(PIECE, self.frames)
        if self.component == "unet":
            return flops.star_flops(config.unet, *self.latent_shape, batch=self.batch)
        if self.component == "vae-encode":
            return flops.vae_encode_flops(config.vae, piece, *size)
        if self.component == "vae-decode":
            return flops.vae_decode_flops(config.vae, piece, *size)
        if self.component == "text":
            return flops.text_encoder_flops(_text_config(config), batch=2)
        return flops.pipeline_flops(
            config, self.frames, *size, UpscaleSettings(num_inference_steps=self.steps)
        )

    def describe(self) -> dict[str, Any]:
        """Everything that identifies the measurement."""
        config = self.config
        return {
            "benchmark": "inference",
            "component": self.component,
            "preset": config.preset,
            "weights": self.checkpoint or "random",
            "frames": self.frames,
            "height": self.height,
            "width": self.width,
            "padded_size": list(self.padded_size),
            "steps": self.steps if self.component == "pipeline" else None,
            "batch": self.batch if self.component == "unet" else None,
            "dtype": "float32" if self.component.startswith("vae") else str(resolve_dtype(self.dtype)),
            "attention": self.attention,
            "mesh": self.mesh,
        }


def measure_inference(benchmark: InferenceBenchmark) -> dict[str, Any]:
    """Runs a benchmark.

    Returns:
      What was measured (`describe`); `seconds_per_step` (median), `spread`, `step_seconds`, `compile_seconds`,
      `seconds_per_frame`, `frames_per_second`; `tflop_per_step` (counted from sizes), `tflop_compiled` (the
      compiler's count, None where it has none), `tflops_per_second`, `peak_tflops`, `mfu`; memory, see
      `report.memory`. Of the pipeline a step is the whole clip, with `stage_seconds`.

    Raises:
      InputError: a component that the model lacks, a damaged checkpoint, or attention that cannot run here.
    """
    if benchmark.component == "pipeline":
        from star_jax.benchmark.pipeline import measure_pipeline

        if benchmark.mesh is not None:
            raise InputError(
                "the pipeline runs on one device; leave out --mesh, or choose another --component"
            )
        return measure_pipeline(benchmark, benchmark_pipeline(benchmark))
    placement = Placement.of(None if benchmark.mesh is None else parse_mesh(benchmark.mesh))
    with placement.context():
        program, args, frames = component_program(benchmark, placement)
        timing, compiled = time_program(program, args, repeats=benchmark.repeats)
    count = benchmark.count()
    compiled_count = flops.compiled_flops(compiled)
    seconds = timing.median
    return {
        **benchmark.describe(),
        **timing.report(),
        "seconds_per_frame": seconds / frames if frames else None,
        "frames_per_second": frames / seconds if frames else None,
        **throughput(
            count.total, seconds, num_devices=placement.num_devices, device_peak=benchmark.device_peak
        ),
        "tflop_parts": {name: value / 1e12 for name, value in dataclasses.asdict(count).items()},
        "tflop_compiled": compiled_count and compiled_count * placement.num_devices / 1e12,
        **memory(compiled),
    }


def count_inference(benchmark: InferenceBenchmark) -> dict[str, Any]:
    """What `measure_inference` says of the operations, without running anything."""
    count = benchmark.count()
    return {
        **benchmark.describe(),
        "tflop_per_step": count.total / 1e12,
        "tflop_parts": {name: value / 1e12 for name, value in dataclasses.asdict(count).items()},
    }


def component_program(benchmark: InferenceBenchmark, placement: Placement) -> tuple[Callable, tuple, int]:
    """The jitted program of a component, its arguments on the devices, and the frames that one step handles."""
    config, kernels = benchmark.config, AttentionKernels.all(benchmark.attention)
    dtype = resolve_dtype(benchmark.dtype)
    key = jax.random.key(0)

    def params_of(name: str, abstract: dict[str, Any]) -> dict[str, Any]:
        return _params(benchmark, name, placement.params(abstract))

    if benchmark.component == "unet":
        shape = (benchmark.batch, *benchmark.latent_shape, config.unet.in_channels)
        parts = {
            name: abstract_component(config, name, dtype=dtype, kernels=kernels)
            for name in ("unet", "controlnet")
        }
        params = {name: params_of(name, abstract) for name, (_, abstract) in parts.items()}
        program = jax.jit(partial(star_velocity, parts["unet"][0], parts["controlnet"][0]))
        context = jax.random.normal(
            key, (benchmark.batch, flops.TEXT_LENGTH, config.unet.cross_attention_dim), dtype
        )
        latents = jax.random.normal(key, shape)
        timesteps = jnp.full(benchmark.batch, 500, jnp.int32)
        inputs = map(placement.inputs, (latents, timesteps, context, latents))
        return program, (params, *inputs), benchmark.batch * benchmark.frames
    if benchmark.component == "text":
        text = _text_config(config)
        graphdef, abstract = abstract_component(config, "text_encoder", dtype=dtype, kernels=kernels)
        ids = jax.random.randint(key, (2, text.max_position_embeddings), 0, text.vocab_size)
        program = jax.jit(lambda params, ids: nnx.merge(graphdef, params)(ids))
        return program, (params_of("text_encoder", abstract), placement.inputs(ids)), 0
    graphdef, abstract = abstract_component(config, "vae", dtype=jnp.float32, kernels=kernels)
    params, piece = params_of("vae", abstract), min(PIECE, benchmark.frames)
    if benchmark.component == "vae-encode":
        frames = jax.random.uniform(key, (1, piece, *benchmark.padded_size, 3), minval=-1.0)
        program = jax.jit(lambda params, x: nnx.merge(graphdef, params).encode(x))
        return program, (params, placement.inputs(frames)), piece
    latents = jax.random.normal(key, (1, piece, *benchmark.latent_shape[1:], config.vae.latent_channels))
    program = jax.jit(lambda params, x: nnx.merge(graphdef, params).decode(x))
    return program, (params, placement.inputs(latents)), piece


def benchmark_pipeline(benchmark: InferenceBenchmark) -> StarPipeline:
    """A pipeline with the checkpoint's weights, or random ones and a tokenizer of bytes."""
    if benchmark.checkpoint is not None:
        return StarPipeline.from_pretrained(
            benchmark.checkpoint, dtype=benchmark.dtype, attention=benchmark.attention
        )
    config, dtype = benchmark.config, resolve_dtype(benchmark.dtype)
    kernels = AttentionKernels.all(benchmark.attention)
    params = {
        name: random_params(
            abstract_component(
                config, name, dtype=jnp.dtype(jnp.float32) if name == "vae" else dtype, kernels=kernels
            )[1]
        )
        for name in component_names(config)
    }
    tokenizer = None
    if config.text_encoder is not None:
        with tempfile.TemporaryDirectory() as folder:
            write_byte_level_tokenizer(folder)
            tokenizer = load_tokenizer(folder)
    return StarPipeline(config, params, tokenizer, dtype=dtype, kernels=kernels)


def _params(benchmark: InferenceBenchmark, name: str, abstract: dict[str, Any]) -> dict[str, Any]:
    if benchmark.checkpoint is None:
        return random_params(abstract)
    return load_component(benchmark.checkpoint, name, abstract)


def _text_config(config: StarConfig):
    if config.text_encoder is None:
        raise InputError(f"preset {config.preset!r} has no text encoder to measure")
    return config.text_encoder
