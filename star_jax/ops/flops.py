"""Floating-point operations, counted by tracing or read from a compiled program.

A multiply-add is two operations. As is usual, convolutions, matrix products and attention kernels are counted, and
normalisations, activations and softmax are not (about 1 %).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from star_jax.ops.platform import COUNTED, targeting

# Number of matrix products of queries' by keys' size in each attention kernel, forward and backward.
_KERNEL_PRODUCTS = {
    "splash_mha_fwd": 2,
    "splash_mha_dkv": 4,
    "splash_mha_dq": 3,
    "frames_attention_forward": 2,
    "frames_attention_backward": 5,
    "dot_product_attention_fwd": 2,  # cuDNN's
    "dot_product_attention_bwd": 5,
}


@dataclass(frozen=True)
class FlopCount:
    """Operations by kind.

    Attributes:
      convolution: operations of convolutions.
      linear: operations of products of activations with weights.
      attention: operations of products of activations with each other.
    """

    convolution: float = 0
    linear: float = 0
    attention: float = 0

    @property
    def total(self) -> float:
        return self.convolution + self.linear + self.attention

    def __add__(self, other: "FlopCount") -> "FlopCount":
        return FlopCount(
            self.convolution + other.convolution,
            self.linear + other.linear,
            self.attention + other.attention,
        )

    def __mul__(self, times: float) -> "FlopCount":
        return FlopCount(self.convolution * times, self.linear * times, self.attention * times)


def count_flops(fn: Callable[..., Any], *arguments: Any) -> FlopCount:
    """Operations that a function needs, whatever the device. Nothing is run.

    The function is traced with materialised logits, plain convolutions and no remat, so that the extra work of
    kernels and of recomputation is not in the count.

    Args:
      fn: pure function; it may contain derivatives.
      arguments: arrays, or their shapes (jax.ShapeDtypeStruct).
    """
    return count_flops_and_result(fn, *arguments)[0]


def count_flops_and_result(fn: Callable[..., Any], *arguments: Any) -> tuple[FlopCount, Any]:
    """The same as `count_flops`, with the shapes of what the function returns."""
    with targeting(COUNTED):
        # A new function each time, or JAX would reuse an earlier trace of `fn` that was made for a device.
        jaxpr, result = jax.make_jaxpr(lambda *arguments: fn(*arguments), return_shape=True)(*arguments)
    return count_traced(jaxpr), result


def traced_flops(traced: Any) -> float:
    """Operations of a program as traced, on all devices together, including what remat computes twice.

    The compiler's own count leaves out the turns of loops and hand-written kernels; see `compiled_flops`.

    Args:
      traced: a jaxpr, or the result of `jax.jit(...).trace(...)`.
    """
    jaxpr = _jaxpr(traced)
    # Where remat keeps a value, its unused recomputation is still in the trace; the compiler removes it, too.
    used, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return count_traced(used).total


def count_traced(traced: Any) -> FlopCount:
    """Operations of a program as traced, by kind."""
    return sum(map(_of_equation, _jaxpr(traced).eqns), FlopCount())


def _jaxpr(traced: Any) -> Any:
    jaxpr = getattr(traced, "jaxpr", traced)
    return getattr(jaxpr, "jaxpr", jaxpr)


def compiled_flops(compiled: jax.stages.Compiled) -> float | None:
    """The compiler's own count for one device; None where it has none.

    It counts the body of a loop once, whatever the number of turns (the solver's scan, windows, `chunked`
    attention), and nothing inside hand-written kernels (`cudnn`, `splash`).
    """
    analysis: Any = compiled.cost_analysis()
    flops = (analysis or {}).get("flops", 0)
    return float(flops) if flops > 0 else None


def _of_equation(equation: Any) -> FlopCount:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), (batch, _) = params["dimension_numbers"]
        lhs, out = equation.invars[0].aval, equation.outvars[0].aval
        flops = 2 * math.prod(out.shape) * math.prod(lhs.shape[i] for i in contracted)
        return FlopCount(attention=flops) if batch else FlopCount(linear=flops)
    if name == "conv_general_dilated":
        kernel, out = equation.invars[1].aval, equation.outvars[0].aval
        features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return FlopCount(convolution=2 * math.prod(out.shape) * math.prod(kernel.shape) / features)
    if name == "pallas_call" or name.startswith("dot_product_attention"):
        return FlopCount(attention=_of_kernel(equation, params["name"] if name == "pallas_call" else name))
    inner = [count_traced(jaxpr) for jaxpr in _inner_jaxprs(params)]
    if name == "cond":
        return max(inner, key=lambda count: count.total)
    times = params["length"] if name == "scan" else 1
    if name == "shard_map":  # over the whole mesh; inside it, shapes are per device
        times = params["mesh"].size
    return sum(inner, FlopCount()) * times


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, Jaxpr | ClosedJaxpr):
                yield part


def _of_kernel(equation: Any, name: str) -> float:
    """Operations of an attention kernel's matrix products; 0 for other kernels."""
    products = next((n for prefix, n in _KERNEL_PRODUCTS.items() if name.startswith(prefix)), None)
    if products is None:
        return 0.0
    q, k, *_ = [v.aval.shape for v in equation.invars if np.dtype(v.aval.dtype).kind not in "iub"]
    keys = k[-2] if name.startswith("splash") else k[1]  # all but splash: [batch, tokens, ...]
    return 2 * products * math.prod(q) * keys
