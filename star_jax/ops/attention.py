"""Scaled dot-product attention behind one function, with a choice of kernels.

Every kernel computes softmax(q kᵀ / sqrt(head_dim)) v; they differ in memory and in where they run. A kernel that
cannot take the shapes, the dtype or the device raises `InputError`: nothing falls back silently.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from star_jax.errors import InputError
from star_jax.ops.platform import COUNTED, target_platform
from star_jax.ops.splash import splash_attention
from star_jax.parallel.activations import attend_locally

IMPLEMENTATIONS = ("auto", "xla", "chunked", "cudnn", "splash")

# Above this many logits per head (query length x key length) `auto` avoids materialising them.
_MATERIALISE_LIMIT = {"cpu": 256 * 256, "other": 2048 * 2048}
# Logits that `chunked` works on at a time: what a CPU's cache holds (one head), what keeps an accelerator busy.
_BLOCK_BYTES = {"cpu": 4 * 2**20, "other": 512 * 2**20}


@dataclasses.dataclass(frozen=True)
class AttentionKernels:
    """Which kernel each attention site of the UNet uses; see `dot_product_attention` for the names."""

    spatial: str = "auto"
    cross: str = "auto"
    temporal: str = "auto"

    def __post_init__(self):
        for implementation in (self.spatial, self.cross, self.temporal):
            _require_known(implementation)

    @classmethod
    def all(cls, implementation: str) -> "AttentionKernels":
        return cls(implementation, implementation, implementation)


def dot_product_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    implementation: str = "auto",
    key_block: int = 2048,
    query_block: int = 512,
    split_queries: bool = False,
) -> jax.Array:
    """Attention without mask, scaled by 1/sqrt(head_dim), softmax in float32.

    Args:
      q: [batch, query_length, heads, head_dim].
      k: [batch, key_length, heads, head_dim].
      v: [batch, key_length, heads, head_dim].
      implementation: `xla` (materialises the logits), `chunked` (online softmax over key blocks, rematerialised in
        the backward pass; any device), `cudnn` (flash attention on NVIDIA GPUs, half precision), `splash` (Pallas
        flash attention on TPUs), or `auto`: see `choose_implementation`.
      key_block: keys per block of `chunked`.
      query_block: queries per block of `chunked`.
      split_queries: on a mesh, the axis `context` splits the queries, not the batch; see `attend_locally`.

    Returns:
      [batch, query_length, heads, head_dim] in q's dtype.

    Raises:
      InputError: unknown implementation, or one that does not support this input or device.
    """
    _require_known(implementation)
    if target_platform() == COUNTED:
        implementation = "xla"
    if implementation == "auto":
        implementation = choose_implementation(q.shape, k.shape, q.dtype, target_platform())
    if implementation == "xla":
        return _xla_attention(q, k, v)
    if implementation == "chunked":
        attend = functools.partial(_chunked_attention, key_block=key_block, query_block=query_block)
    elif implementation == "cudnn":
        _require_cudnn(q)
        attend = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    else:
        _require_tpu(q)
        attend = splash_attention
    return attend_locally(attend, q, k, v, split_queries=split_queries)


def choose_implementation(
    q_shape: tuple[int, ...], k_shape: tuple[int, ...], dtype: jnp.dtype, platform: str
) -> str:
    """The documented meaning of `auto`.

    Short sequences (the temporal sites) materialise their logits. Long ones use the platform's flash kernel where
    it takes the input: `cudnn` in half precision on a GPU, `splash` on a TPU; `chunked` otherwise.
    """
    if q_shape[1] * k_shape[1] <= _MATERIALISE_LIMIT.get(platform, _MATERIALISE_LIMIT["other"]):
        return "xla"
    if platform == "gpu" and dtype in (jnp.float16, jnp.bfloat16) and q_shape[-1] <= 128:
        return "cudnn"
    if platform == "tpu" and q_shape[-1] in (64, 128, 256):
        return "splash"
    return "chunked"


def _require_known(implementation: str) -> None:
    if implementation not in IMPLEMENTATIONS:
        raise InputError(
            f"attention implementation {implementation!r}; choose one of {', '.join(IMPLEMENTATIONS)}"
        )


def _require_tpu(q: jax.Array) -> None:
    platform = target_platform()
    if platform != "tpu":
        raise InputError(
            f"attention 'splash' needs a TPU, this is a {platform} (input {q.dtype} {q.shape}); "
            "use 'xla' or 'chunked' instead"
        )


def _require_cudnn(q: jax.Array) -> None:
    platform = target_platform()
    if platform != "gpu":
        raise InputError(
            f"attention 'cudnn' needs an NVIDIA GPU, this is a {platform} (input {q.dtype} {q.shape}); "
            "use 'xla' or 'chunked' instead"
        )
    if q.dtype not in (jnp.float16, jnp.bfloat16) or q.shape[-1] > 128:
        raise InputError(
            f"attention 'cudnn' takes float16 or bfloat16 and head sizes up to 128, got {q.dtype} {q.shape}; "
            "use --dtype bfloat16 or attention 'chunked'"
        )


def _xla_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    q, k, v = (x.swapaxes(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))  # [batch, heads, length, head_dim]
    logits = jnp.einsum("bnqd,bnkd->bnqk", q, k, preferred_element_type=jnp.float32)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    out = jnp.einsum("bnqk,bnkd->bnqd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    # Dividing the output, not the weights, touches head_dim numbers per query instead of key_length.
    return (out / weights.sum(-1, keepdims=True)).astype(v.dtype).swapaxes(1, 2)


def _chunked_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, key_block: int, query_block: int
) -> jax.Array:
    """Online softmax (Milakov & Gimelshein 2018; Rabe & Staats 2021): logits exist one block at a time."""
    batch, q_length, heads, dim = q.shape
    k_length = k.shape[1]
    q = _head_blocks(q * dim**-0.5, query_block)
    k, v = _head_blocks(k, key_block), _head_blocks(v, key_block)

    def attend_head(qkv: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        q, k, v = qkv
        attend = functools.partial(_attend_block, k=k, v=v, k_length=k_length)
        return jax.lax.map(jax.checkpoint(attend), q)

    budget = _BLOCK_BYTES.get(target_platform(), _BLOCK_BYTES["other"])
    group = max(1, budget // (4 * q.shape[2] * k.shape[2]))
    out = jax.lax.map(attend_head, (q, k, v), batch_size=group if group > 1 else None)
    return out.reshape(batch, heads, -1, dim)[:, :, :q_length].swapaxes(1, 2)


def _head_blocks(x: jax.Array, block: int) -> jax.Array:
    """[batch, length, heads, head_dim] -> [batch x heads, blocks, <= block, head_dim], padded with zeros."""
    batch, length, heads, dim = x.shape
    blocks = math.ceil(length / block)
    size = math.ceil(length / blocks)
    x = jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, blocks * size - length), (0, 0)))
    return x.reshape(batch * heads, blocks, size, dim)


def _attend_block(q: jax.Array, *, k: jax.Array, v: jax.Array, k_length: int) -> jax.Array:
    """One block of queries [size, head_dim] of one head against all key blocks [blocks, block, head_dim]."""

    def step(carry, block):
        highest, total, acc = carry
        k_block, v_block, start = block
        logits = jnp.einsum("qd,kd->qk", q, k_block, preferred_element_type=jnp.float32)
        if k.shape[0] * k.shape[1] > k_length:
            logits = jnp.where(start + jnp.arange(k.shape[1]) < k_length, logits, -jnp.inf)
        new_highest = jnp.maximum(highest, logits.max(-1, keepdims=True))
        weights = jnp.exp(logits - new_highest)
        decay = jnp.exp(highest - new_highest)
        update = jnp.einsum("qk,kd->qd", weights.astype(v.dtype), v_block, preferred_element_type=jnp.float32)
        return (new_highest, total * decay + weights.sum(-1, keepdims=True), acc * decay + update), None

    start = (
        jnp.full((len(q), 1), -jnp.inf, jnp.float32),
        jnp.zeros((len(q), 1), jnp.float32),
        jnp.zeros(q.shape, jnp.float32),
    )
    starts = jnp.arange(k.shape[0]) * k.shape[1]
    (_, total, acc), _ = jax.lax.scan(jax.checkpoint(step), start, (k, v, starts))
    return (acc / total).astype(v.dtype)
