"""Floating-point operations of a traced program, on all devices together, what remat computes twice included.

The compiler's own count has neither loops nor hand-written kernels in it. As in `star_jax.benchmark.flops`, a
multiply-add is two operations; convolutions, matrix products and attention kernels are counted.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

# Matrix products of queries' and keys' size in each attention kernel, forward and backward.
_KERNEL_PRODUCTS = {
    "splash_mha_fwd": 2,
    "splash_mha_dkv": 4,
    "splash_mha_dq": 3,
    "frames_attention_forward": 2,
    "frames_attention_backward": 5,
    "dot_product_attention_fwd": 2,  # cuDNN's
    "dot_product_attention_bwd": 5,
}


def traced_flops(traced: Any) -> float:
    """Operations of a program.

    Args:
      traced: a jaxpr, or `jax.jit(...).trace(...)`'s.
    """
    jaxpr = getattr(traced, "jaxpr", traced)
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        lhs, out = equation.invars[0].aval, equation.outvars[0].aval
        return 2 * math.prod(out.shape) * math.prod(lhs.shape[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel, out = equation.invars[1].aval, equation.outvars[0].aval
        features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(out.shape) * math.prod(kernel.shape) / features
    if name == "pallas_call" or name.startswith("dot_product_attention"):
        return _of_kernel(equation, params["name"] if name == "pallas_call" else name)
    inner = [traced_flops(jaxpr) for jaxpr in _inner_jaxprs(params)]
    if name == "cond":
        return max(inner)
    times = params["length"] if name == "scan" else 1
    if name == "shard_map":  # over the whole mesh; shapes inside are those of one device
        times = params["mesh"].size
    return times * sum(inner)


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, jax.extend.core.Jaxpr | jax.extend.core.ClosedJaxpr):
                yield part


def _of_kernel(equation: Any, name: str) -> float:
    """Products of [..., query_length, head_dim] and [..., key_length, head_dim]; other kernels have none."""
    products = next((n for prefix, n in _KERNEL_PRODUCTS.items() if name.startswith(prefix)), None)
    if products is None:
        return 0.0
    q, k, *_ = [v.aval.shape for v in equation.invars if np.dtype(v.aval.dtype).kind not in "iub"]
    keys = k[-2] if name.startswith("splash") else k[1]  # the others have [batch, tokens, ...]
    return 2 * products * math.prod(q) * keys
