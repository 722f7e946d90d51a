"""Speed of single layers, and of operations that have several forms, to find the fastest form on this device.

In a minute, one layer of each level tells more than whole networks, which take about that long to compile.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from star_jax.benchmark.quiet import quiet
from star_jax.errors import InputError
from star_jax.init.random_params import random_params
from star_jax.models.architectures import build_model
from star_jax.models.part import LayersToMeasure, Part
from star_jax.models.video_model import VideoModel
from star_jax.ops.flops import traced_flops
from star_jax.ops.platform import resolve_dtype
from star_jax.ops.variants import forms_of, using, variant_of
from star_jax.presets import get_preset

Row = dict[str, Any]

_CALLS = 5  # calls per timing: they queue up, so that the host's time per call does not count
_MAX_CALL_SECONDS = 0.5  # slower calls are timed one by one
_MARGIN = 0.03  # fraction of time that a form must save to replace the one in use
# Largest relative distance of two forms' results in half precision; above it, one of them is wrong.
_SAME = 0.02


@dataclasses.dataclass(frozen=True)
class LayersBenchmark:
    """A measurement to take.

    Attributes:
      preset: sizes of the networks; weights are random.
      frames, height, width: size of a clip's result in pixels; padded to a size that the networks take.
      dtype: dtype in which UNet and ControlNet compute; `auto` as in `StarPipeline`.
      vae_dtype: dtype in which the VAE's blocks compute.
      backward: whether to measure the gradient of weights and inputs, too.
      budget: seconds after which no further layer is started; None to measure all layers.
      repeats: timings per measurement, of which the median counts.
    """

    preset: str = "i2vgen-xl"
    frames: int = 32
    height: int = 720
    width: int = 1280
    dtype: str = "auto"
    vae_dtype: str = "float32"
    backward: bool = False
    budget: float | None = None
    repeats: int = 3

    def __post_init__(self):
        for name in ("frames", "height", "width", "repeats"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; choose at least 1")
        if self.budget is not None and not self.budget > 0:
            raise InputError(f"budget is {self.budget}; choose a positive number of seconds")
        _ = self.parts  # raises if the preset has no layers to measure

    @property
    def model(self) -> VideoModel:
        vae_dtype = resolve_dtype(self.vae_dtype)
        return build_model(get_preset(self.preset), dtype=self.dtype, vae_dtype=(vae_dtype, vae_dtype))

    @property
    def latents(self) -> tuple[int, int, int]:
        """(frames, height, width) of the latents."""
        rule = self.model.size_rule
        return self.frames, *rule.latent_size(*rule.padded_size(self.height, self.width))

    @property
    def parts(self) -> LayersToMeasure:
        return self.model.layers_to_measure(self.latents)

    def describe(self) -> Row:
        """Everything that identifies the measurement."""
        return {
            "benchmark": "layers",
            **dataclasses.asdict(self),
            "dtype": str(resolve_dtype(self.dtype)),
            "vae_dtype": str(resolve_dtype(self.vae_dtype)),
            "latents": list(self.latents),
        }


def measure_layers(
    benchmark: LayersBenchmark, on_row: Callable[[Row, Row], None] = lambda row, report: None
) -> Row:
    """Runs a benchmark.

    Args:
      benchmark: what to measure.
      on_row: called after every layer with its row and the report so far, for example to store it.

    Returns:
      The keys of `describe`; `rows`, one per layer, form and pass; `chosen`, operation -> fastest form with the
      same result, for operations of which all forms were measured; and `complete`, whether the budget sufficed. A
      row has `part`, `form` (such as "geglu=gelu", None if there is only one), `pass`, `seconds`,
      `compile_seconds`, `tflop`, `tflops_per_second`, `gigabytes_per_second` (from inputs, weights and results, the
      least that must be read and written) and `per_forward`. Layers of the networks also have `share`, their
      fraction of the time of all measured layers in one evaluation; forms have `difference`, the relative distance
      of their result from the first form's.
    """
    started, longest = time.perf_counter(), 0.0
    results: dict[str, jax.Array] = {}  # result of the current layer in its first form
    report: Row = {**benchmark.describe(), "rows": [], "chosen": {}, "complete": False}
    for part, forms, backward in _measurements(benchmark):
        spent = time.perf_counter() - started
        if benchmark.budget is not None and spent + longest > benchmark.budget:
            return report
        row, result = _measure(part, forms, backward, benchmark.repeats)
        if forms and not backward:
            if part.name not in results:
                results = {part.name: result}
            row["difference"] = float(_distance(result, results[part.name]))
        del result
        longest = max(longest, time.perf_counter() - started - spent)
        report["rows"].append(row)
        report["chosen"] = fastest_forms(report["rows"])
        _add_shares(report["rows"])
        on_row(row, report)
    report["complete"] = True
    return report


def fastest_forms(rows: list[Row]) -> dict[str, str]:
    """Operation -> form whose layers take the least time in the forward pass, if all its forms were measured.

    The form in use stays unless another is faster by more than the timings vary.
    """
    seconds: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for operation, form in row["forms"].items():
            if row["pass"] == "forward" and row["difference"] < _SAME:
                seconds.setdefault(operation, {}).setdefault(form, []).append(row["seconds"])
    chosen = {}
    for operation, by_form in seconds.items():
        wanted = forms_of(operation, jax.default_backend())
        if set(by_form) == set(wanted) and len({len(times) for times in by_form.values()}) == 1:
            total = {form: sum(times) for form, times in by_form.items()}
            used = variant_of(operation)
            if used in total:
                total[used] *= 1 - _MARGIN
            chosen[operation] = min(total, key=lambda form: total[form])
    return chosen


def _measurements(benchmark: LayersBenchmark) -> Iterator[tuple[Part, dict[str, str], bool]]:
    """Yields (layer, forms, whether backward): all forward passes first, and operations before layers."""
    parts = benchmark.parts
    for backward in (False, True) if benchmark.backward else (False,):
        for part in parts.operations:
            for forms in _combinations(part.operations):
                yield part, forms, backward
        for part in parts.layers:
            yield part, {}, backward


def _combinations(operations: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Yields each form of the first operation, then of each further one with the first form of all others."""
    platform = jax.default_backend()
    for operation in operations:
        others = {name: forms_of(name, platform)[0] for name in operations if name != operation}
        for form in forms_of(operation, platform):
            yield {operation: form} | ({} if operation == operations[0] else others)


def _measure(part: Part, forms: dict[str, str], backward: bool, repeats: int) -> tuple[Row, Any]:
    """The layer's row, and the result of its last call."""
    run, (params, *inputs) = part.abstract()
    args = (random_params(params), *jax.tree.map(_normal, inputs))
    if backward:
        run = _gradient(run, args)
    with using(**forms):
        start = time.perf_counter()
        traced = jax.jit(run).trace(*args)
        compiled = traced.lower().compile()
    compile_seconds = time.perf_counter() - start
    with quiet():
        seconds, result = _time(functools.partial(compiled, *args), repeats)
    tflop = traced_flops(traced) / 1e12
    leaves = jax.tree.leaves((args, jax.eval_shape(run, *args)))
    moved = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    row = {
        "part": part.name,
        "form": ", ".join(f"{operation}={form}" for operation, form in forms.items()) or None,
        "forms": dict(list(forms.items())[:1]),
        "pass": "backward" if backward else "forward",
        "seconds": seconds,
        "compile_seconds": compile_seconds,
        "tflop": tflop,
        "tflops_per_second": tflop / seconds,
        "gigabytes_per_second": moved / 1e9 / seconds,
        "per_forward": part.per_forward,
    }
    return row, result


@jax.jit
def _distance(found: jax.Array, wanted: jax.Array) -> jax.Array:
    """Relative distance of two results."""
    found, wanted = found.astype(jnp.float32), wanted.astype(jnp.float32)
    return jnp.sqrt(jnp.square(found - wanted).sum() / jnp.square(wanted).sum())


def _normal(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    make = jax.jit(lambda key: jax.random.normal(key, leaf.shape, jnp.float32).astype(leaf.dtype))
    return make(jax.random.key(0))


def _gradient(run: Callable[..., jax.Array], args: tuple[Any, ...]) -> Callable[..., Any]:
    """The forward and the backward pass, for the weights and all inputs."""

    def loss(*args: Any) -> jax.Array:
        return jnp.square(run(*args).astype(jnp.float32)).mean()

    return jax.grad(loss, range(len(args)))


def _time(call: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median seconds of one call after a warm-up, and the result of the last call."""
    seconds, calls, result = [], 1, None
    for i in range(repeats + 1):
        start = time.perf_counter()
        result = None
        result = jax.block_until_ready([call() for _ in range(calls)][-1])
        seconds.append((time.perf_counter() - start) / calls)
        if i == 0:
            calls = _CALLS if seconds[0] < _MAX_CALL_SECONDS else 1
    return sorted(seconds[1:])[len(seconds[1:]) // 2], result


def _add_shares(rows: list[Row]) -> None:
    for direction in ("forward", "backward"):
        counted = [row for row in rows if row["per_forward"] and row["pass"] == direction]
        total = math.fsum(row["seconds"] * row["per_forward"] for row in counted)
        for row in counted:
            row["share"] = row["seconds"] * row["per_forward"] / total


def differing_choices(chosen: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Operation -> (form in use, fastest form) for the operations in which they differ."""
    return {name: (variant_of(name), form) for name, form in chosen.items() if variant_of(name) != form}
