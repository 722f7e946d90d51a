"""Scaled dot-product attention behind one function, with a choice of kernels.

Every kernel computes softmax(q kᵀ / sqrt(head_dim)) v; they differ in memory and in where they run. A kernel that
cannot take the shapes, the dtype or the device raises `InputError`: nothing falls back silently.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from star_jax.errors import InputError
from star_jax.ops.attention_rules import KERNEL_RULES, choose_implementation, refusal
from star_jax.ops.cudnn import cudnn_attention
from star_jax.ops.platform import COUNTED, target_platform
from star_jax.ops.splash import splash_attention
from star_jax.parallel.activations import attend_locally

IMPLEMENTATIONS = ("auto", *KERNEL_RULES)

# Most bytes of logits that an accelerator materialises at a time (but at least those of one sequence).
_MATERIALISED_BYTES = 2 * 2**30
# Bytes of logits that `chunked` works on at a time: what a CPU's cache holds (one head), or enough to keep an
# accelerator busy.
_BLOCK_BYTES = {"cpu": 4 * 2**20, "other": 512 * 2**20}


@dataclasses.dataclass(frozen=True)
class AttentionKernels:
    """Kernel of each attention site of the UNet; see `dot_product_attention` for the names."""

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
    q: Float[Array, "N Q H D"],
    k: Float[Array, "N K H D"],
    v: Float[Array, "N K H D"],
    *,
    implementation: str = "auto",
    key_block: int = 2048,
    query_block: int = 512,
    split_queries: bool = False,
) -> Float[Array, "N Q H D"]:
    """Attention without a mask, scaled by 1/sqrt(head_dim), softmax in float32.

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
        return _xla_attention(q, k, v)
    if implementation == "auto":
        implementation = choose_implementation(q.shape, k.shape, q.dtype, target_platform())
    elif reason := refusal(implementation, q.shape, k.shape, q.dtype, target_platform()):
        raise InputError(f"attention {implementation!r} {reason}")
    if implementation == "xla" and not _needs_groups(q, k):
        return _xla_attention(q, k, v)  # the compiler can partition this one
    kernels: dict[str, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]] = {
        "xla": _grouped_xla_attention,
        "chunked": functools.partial(_chunked_attention, key_block=key_block, query_block=query_block),
        "cudnn": cudnn_attention,
        "splash": splash_attention,
    }
    return attend_locally(kernels[implementation], q, k, v, split_queries=split_queries)


def _require_known(implementation: str) -> None:
    if implementation not in IMPLEMENTATIONS:
        raise InputError(
            f"attention implementation is {implementation!r}; choose one of {', '.join(IMPLEMENTATIONS)}"
        )


def _xla_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    q, k, v = (rearrange(x, "b length n d -> b n length d") for x in (q * q.shape[-1] ** -0.5, k, v))
    logits = jnp.einsum("bnqd,bnkd->bnqk", q, k, preferred_element_type=jnp.float32)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    out = jnp.einsum("bnqk,bnkd->bnqd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    # Dividing the output, not the weights, touches head_dim numbers per query instead of key_length.
    out = (out / weights.sum(-1, keepdims=True)).astype(v.dtype)
    return rearrange(out, "b n length d -> b length n d")


def _needs_groups(q: jax.Array, k: jax.Array) -> bool:
    """Whether the logits are too large to materialise at once (never on a CPU, where it is up to the user)."""
    return target_platform() != "cpu" and len(q) > 1 and len(q) * _logit_bytes(q, k) > _MATERIALISED_BYTES


def _logit_bytes(q: jax.Array, k: jax.Array) -> int:
    """Bytes of one sequence's logits in float32."""
    return 4 * q.shape[1] * q.shape[2] * k.shape[1]


def _grouped_xla_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attends in groups of sequences as large as the limit allows; the backward pass recomputes their logits."""
    group = max(1, _MATERIALISED_BYTES // _logit_bytes(q, k))

    @jax.checkpoint
    def attend(qkv: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return _xla_attention(*(x[None] for x in qkv))[0]

    return jax.lax.map(attend, (q, k, v), batch_size=group if group > 1 else None)


def _chunked_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, key_block: int, query_block: int
) -> jax.Array:
    """Online softmax (Milakov & Gimelshein 2018; Rabe & Staats 2021): logits exist one block at a time."""
    batch, q_length, _, dim = q.shape
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
    out = rearrange(out, "(b n) blocks size d -> b n (blocks size) d", b=batch)[:, :, :q_length]
    return rearrange(out, "b n length d -> b length n d")


def _head_blocks(x: jax.Array, block: int) -> jax.Array:
    """[batch, length, heads, head_dim] -> [batch x heads, blocks, <= block, head_dim], padded with zeros."""
    length = x.shape[1]
    blocks = math.ceil(length / block)
    size = math.ceil(length / blocks)
    x = rearrange(x, "b length n d -> b n length d")
    x = jnp.pad(x, ((0, 0), (0, 0), (0, blocks * size - length), (0, 0)))
    return rearrange(x, "b n (blocks size) d -> (b n) blocks size d", size=size)


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
