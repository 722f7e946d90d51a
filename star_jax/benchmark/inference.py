"""Speed and memory of inference: one part of a model at a time, or the whole pipeline."""

import dataclasses
import tempfile
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from star_jax.benchmark import operations
from star_jax.benchmark.pipeline import measure_pipeline
from star_jax.benchmark.report import memory, throughput
from star_jax.benchmark.timing import time_program
from star_jax.checkpoints.directory import load_component, read_config
from star_jax.errors import InputError
from star_jax.inference.pipeline import StarPipeline
from star_jax.inference.settings import UpscaleSettings
from star_jax.init.random_params import random_params
from star_jax.models.architectures import build_model
from star_jax.models.video_model import Params, VideoModel
from star_jax.ops.attention import AttentionKernels
from star_jax.ops.flops import FlopCount, compiled_flops
from star_jax.parallel.mesh import parse_mesh
from star_jax.parallel.placement import Placement
from star_jax.presets import get_preset

NETWORK = "network"  # reports use the name of the model's first network instead
PARTS = ("vae-encode", "vae-decode", "text", "pipeline")


@dataclasses.dataclass(frozen=True)
class InferenceBenchmark:
    """A measurement to take.

    Attributes:
      component: `network` (one evaluation of all networks that predict the velocity), `vae-encode` and `vae-decode`
        (one chunk of frames), `text` (both prompts), or `pipeline` (a whole clip, from frames to frames). The
        network can also be given by the name of its first component, such as `unet`.
      preset: sizes of the networks, with random weights; ignored if a checkpoint is given.
      checkpoint: checkpoint directory with sizes and weights.
      frames, height, width: size of the result in pixels; padded to a size that the networks take.
      steps: number of sampling steps of the pipeline.
      batch: clips that the network evaluates at once; guidance needs 2.
      dtype, vae_dtype: dtypes in which the networks and the VAE compute, as in `StarPipeline.from_pretrained`.
      attention: attention kernel for every site.
      max_memory: bytes that the pipeline may plan with; None for the device's memory.
      mesh: axes such as `data=2,context=4` that spread the networks over all devices; None for one device.
      repeats: number of measured steps.
      device_peak: TFLOP/s of one device, instead of the table's.
    """

    component: str = NETWORK
    preset: str = "i2vgen-xl"
    checkpoint: str | None = None
    frames: int = 32
    height: int = 720
    width: int = 1280
    steps: int = 15
    batch: int = 1
    dtype: str = "auto"
    vae_dtype: str = "auto"
    attention: str = "auto"
    max_memory: int | None = None
    mesh: str | None = None
    repeats: int = 5
    device_peak: float | None = None

    def __post_init__(self):
        choices = (self.network_name, *PARTS)
        if self.component not in (NETWORK, *choices):
            raise InputError(f"component is {self.component!r}; choose one of {', '.join(choices)}")
        for name in ("frames", "height", "width", "steps", "batch", "repeats"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; choose at least 1")
        if self.device_peak is not None and self.device_peak <= 0:
            raise InputError(f"peak-tflops is {self.device_peak}; it must be positive")
        if self.mesh is not None:
            parse_mesh(self.mesh)  # raises before anything is loaded

    @property
    def model(self) -> VideoModel:
        """The model that is measured."""
        config = get_preset(self.preset) if self.checkpoint is None else read_config(self.checkpoint)
        kernels = AttentionKernels.all(self.attention)
        return build_model(config, dtype=self.dtype, kernels=kernels, vae_dtype=self.vae_dtype)

    @property
    def network_name(self) -> str:
        return self.model.network_components[0]

    @property
    def is_network(self) -> bool:
        return self.component in (NETWORK, self.network_name)

    @property
    def padded_size(self) -> tuple[int, int]:
        """(height, width) that the networks see, in pixels."""
        return self.model.size_rule.padded_size(self.height, self.width)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(frames, height, width) of the latents."""
        rule = self.model.size_rule
        return rule.num_latents(self.frames), *rule.latent_size(*self.padded_size)

    @property
    def chunk(self) -> int:
        """Number of frames in the autoencoder's first chunk of a clip."""
        model, frames = self.model, self.model.size_rule.padded_frames(self.frames)
        if self.component == "vae-encode":
            return min(frames, model.encode_chunks(frames)[0])
        return model.decode_chunks(frames)[0].decoded

    def count(self) -> FlopCount:
        """Operations of a step, counted by tracing."""
        model = self.model
        if self.is_network:
            return operations.velocity_flops(model, self.latent_shape, batch=self.batch)
        if self.component == "vae-encode":
            return operations.encode_flops(model, self.chunk, *self.padded_size)
        if self.component == "vae-decode":
            return operations.decode_flops(model, self.chunk, *self.padded_size)
        if self.component == "text":
            return operations.text_flops(_with_text(model), batch=2)
        settings = UpscaleSettings(num_inference_steps=self.steps)
        return operations.pipeline_flops(model, self.frames, *self.padded_size, settings)

    def describe(self) -> dict[str, Any]:
        """Everything that identifies the measurement."""
        model = self.model
        encoder, decoder = model.autoencoder_dtypes
        networks = model.dtype_of(model.network_components[0])
        return {
            "benchmark": "inference",
            "component": self.network_name if self.is_network else self.component,
            "preset": model.config.preset,
            "weights": self.checkpoint or "random",
            "frames": self.frames,
            "height": self.height,
            "width": self.width,
            "padded_size": list(self.padded_size),
            "steps": self.steps if self.component == "pipeline" else None,
            "batch": self.batch if self.is_network else None,
            "dtype": str({"vae-encode": encoder, "vae-decode": decoder}.get(self.component, networks)),
            "attention": self.attention,
            "mesh": self.mesh,
        }


def measure_inference(benchmark: InferenceBenchmark) -> dict[str, Any]:
    """Runs a benchmark.

    Returns:
      The measurement's identity (`describe`); `seconds_per_step` (median), `spread`, `step_seconds`,
      `compile_seconds`, `seconds_per_frame`, `frames_per_second`; `tflop_per_step` (counted by tracing),
      `tflop_compiled` (the compiler's count, None if it has none), `tflops_per_second`, `peak_tflops`, `mfu`;
      memory, see `report.memory`. A step of the pipeline is the whole clip, with `stage_seconds`.

    Raises:
      InputError: the model lacks the component, the checkpoint is damaged, or the attention kernel cannot run here.
    """
    if benchmark.component == "pipeline":
        if benchmark.mesh is not None:
            raise InputError(
                "the pipeline runs on one device; leave out --mesh, or choose another --component"
            )
        report = measure_pipeline(
            benchmark_pipeline(benchmark),
            benchmark.frames,
            (benchmark.height, benchmark.width),
            num_inference_steps=benchmark.steps,
            budget=benchmark.max_memory,
            repeats=benchmark.repeats,
        )
        speed = throughput(
            benchmark.count().total,
            report["seconds_per_step"],
            num_devices=1,
            device_peak=benchmark.device_peak,
        )
        return {**benchmark.describe(), **report, **speed}
    placement = Placement.of(None if benchmark.mesh is None else parse_mesh(benchmark.mesh))
    with placement.context():
        program, args, frames = component_program(benchmark, placement)
        timing, compiled = time_program(program, args, repeats=benchmark.repeats)
    count = benchmark.count()
    compiled_count = compiled_flops(compiled)
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
    """Reports the operations as `measure_inference` does, without running anything."""
    count = benchmark.count()
    return {
        **benchmark.describe(),
        "tflop_per_step": count.total / 1e12,
        "tflop_parts": {name: value / 1e12 for name, value in dataclasses.asdict(count).items()},
    }


def component_program(
    benchmark: InferenceBenchmark, placement: Placement
) -> tuple[jax.stages.Wrapped, tuple, int]:
    """The jitted program of a component, its arguments on the devices, and the number of frames per step."""
    model, key = benchmark.model, jax.random.key(0)

    def params_of(components: Iterable[str]) -> Params:
        return {name: _params(benchmark, name, placement.params(model.abstract(name))) for name in components}

    if benchmark.is_network:
        batch = benchmark.batch
        context = jax.random.normal(key, (batch, *model.context_shape), model.dtype)
        latents = jax.random.normal(key, (batch, *benchmark.latent_shape, model.latent_channels))
        inputs = map(placement.inputs, (latents, jnp.full(batch, 500, jnp.int32), context, latents))
        params = params_of(model.network_components)
        return jax.jit(model.velocity), (params, *inputs), batch * benchmark.frames
    if benchmark.component == "text":
        # Every model's vocabulary has these token IDs, and all of them cost the same.
        ids = jax.random.randint(key, (2, _with_text(model).context_shape[0]), 0, 256)
        return jax.jit(model.encode_text), (params_of(model.text_components), placement.inputs(ids)), 0
    params, chunk = params_of(model.autoencoder_components), benchmark.chunk
    if benchmark.component == "vae-encode":
        frames = jax.random.uniform(key, (1, chunk, *benchmark.padded_size, 3), minval=-1.0)
        return jax.jit(model.encode), (params, placement.inputs(frames)), chunk
    num_latents = model.size_rule.num_latents(chunk)
    latents = jax.random.normal(key, (1, num_latents, *benchmark.latent_shape[1:], model.latent_channels))
    return jax.jit(model.decode), (params, placement.inputs(latents)), chunk


def benchmark_pipeline(benchmark: InferenceBenchmark) -> StarPipeline:
    """A pipeline with the checkpoint's weights, or with random weights and a byte-level tokenizer."""
    if benchmark.checkpoint is not None:
        return StarPipeline.from_pretrained(
            benchmark.checkpoint,
            dtype=benchmark.dtype,
            vae_dtype=benchmark.vae_dtype,
            attention=benchmark.attention,
        )
    model = benchmark.model
    params = {name: random_params(tree) for name, tree in model.abstract_params().items()}
    tokenizer = None
    if model.has_text:
        with tempfile.TemporaryDirectory() as folder:
            model.write_tokenizer(folder)
            tokenizer = model.load_tokenizer(folder)
    return StarPipeline(model, params, tokenizer)


def _params(benchmark: InferenceBenchmark, name: str, abstract: dict[str, Any]) -> dict[str, Any]:
    if benchmark.checkpoint is None:
        return random_params(abstract)
    return load_component(benchmark.checkpoint, name, abstract)


def _with_text(model: VideoModel) -> VideoModel:
    if not model.has_text:
        raise InputError(
            f"preset {model.config.preset!r} has no text encoder to measure; choose another --component"
        )
    return model
