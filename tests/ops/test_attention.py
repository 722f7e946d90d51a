"""The attention kernels against PyTorch, against each other, and their refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from star_jax.errors import InputError
from star_jax.ops import attention
from star_jax.ops.attention import AttentionKernels, choose_implementation, dot_product_attention
from star_jax.ops.platform import targeting

SHAPES = [  # batch, query length, key length, heads, head dim
    (2, 7, 7, 2, 16),
    (1, 70, 77, 3, 8),
    (1, 150, 150, 1, 64),
]


def _inputs(shape, seed=0):
    b, q, k, n, d = shape
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal((b, length, n, d)).astype(np.float32) for length in (q, k, k))


def _relative(a, b):
    return np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b))


@pytest.mark.parametrize("implementation", ["auto", "xla", "chunked"])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_torch(implementation, shape):
    q, k, v = _inputs(shape)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(torch.from_numpy(x).transpose(1, 2) for x in (q, k, v))
    )
    blocks = {"key_block": 32, "query_block": 64} if implementation == "chunked" else {}
    actual = dot_product_attention(q, k, v, implementation=implementation, **blocks)
    assert actual.shape == q.shape
    assert _relative(actual, expected.transpose(1, 2).numpy()) < 1e-6


def test_chunked_gradient_equals_materialised():
    q, k, v = _inputs((1, 70, 90, 2, 8))

    def loss(implementation):
        def value(q, k, v):
            out = dot_product_attention(q, k, v, implementation=implementation, key_block=32, query_block=32)
            return jnp.sum(jnp.sin(out))

        return jax.jit(jax.grad(value, argnums=(0, 1, 2)))(q, k, v)

    for chunked, plain in zip(loss("chunked"), loss("xla"), strict=True):
        assert _relative(chunked, plain) < 1e-5


def test_chunked_never_builds_the_logits():
    length = 8192
    q, k, v = (jax.ShapeDtypeStruct((1, length, 1, 16), jnp.float32) for _ in range(3))
    attend = jax.jit(lambda q, k, v: dot_product_attention(q, k, v, implementation="chunked"))
    temporary = attend.lower(q, k, v).compile().memory_analysis().temp_size_in_bytes
    assert temporary < 4 * length**2 / 16


def test_auto_is_documented_choice():
    long, short = (2, 14400, 5, 64), (14400, 32, 5, 64)
    text = (2, 77, 5, 64)
    assert choose_implementation(long, long, jnp.bfloat16, "gpu") == "cudnn"
    assert choose_implementation(long, long, jnp.float32, "gpu") == "chunked"
    assert choose_implementation(long, long, jnp.bfloat16, "tpu") == "splash"
    assert choose_implementation(long, long, jnp.float32, "cpu") == "chunked"
    assert choose_implementation(short, short, jnp.bfloat16, "gpu") == "xla"
    assert choose_implementation(short, short, jnp.float32, "cpu") == "xla"
    assert choose_implementation(long, text, jnp.bfloat16, "gpu") == "cudnn"
    coarse = (32, 960, 20, 64)
    assert choose_implementation(coarse, coarse, jnp.bfloat16, "gpu") == "cudnn"
    vae = (3, 14400, 1, 512)
    assert choose_implementation(vae, vae, jnp.float16, "gpu") == "xla"
    assert choose_implementation(vae, vae, jnp.float32, "cpu") == "chunked"


@pytest.mark.parametrize(
    ("implementation", "head_dim", "remedy"),
    [
        ("flash3", 64, "choose one of auto, xla, chunked, cudnn, splash"),
        ("cudnn", 64, "use 'xla' or 'chunked'"),
        ("splash", 64, "use 'xla' or 'chunked'"),
    ],
)
def test_unsupported_choice_says_what_to_use(implementation, head_dim, remedy):
    q, k, v = _inputs((1, 8, 8, 1, head_dim))
    with pytest.raises(InputError, match=implementation) as error:
        dot_product_attention(q, k, v, implementation=implementation)
    assert remedy in str(error.value)


def test_splash_refuses_its_unsupported_head_sizes():
    q, k, v = _inputs((1, 8, 8, 1, 24))
    with targeting("tpu"), pytest.raises(InputError, match="head sizes 64, 128 and 256"):
        dot_product_attention(q, k, v, implementation="splash")


def test_cudnn_refuses_single_precision():
    q, k, v = _inputs((1, 8, 8, 1, 64))
    with targeting("gpu"), pytest.raises(InputError, match="--dtype bfloat16"):
        dot_product_attention(q, k, v, implementation="cudnn")


def test_splash_traces_for_unaligned_lengths():
    q, k, v = (jax.ShapeDtypeStruct((2, 3680, 5, 64), jnp.bfloat16) for _ in range(3))
    with targeting("tpu"):
        out = jax.eval_shape(lambda *a: dot_product_attention(*a, implementation="auto"), q, k, v)
    assert out.shape == q.shape and out.dtype == jnp.bfloat16


def test_kernels_of_unknown_names_are_refused_before_anything_runs():
    with pytest.raises(InputError, match="choose one of auto"):
        AttentionKernels.all("flash3")


def test_materialised_logits_in_groups_of_sequences(monkeypatch):
    """As an accelerator does when all of them at once are too many."""
    inputs = _inputs((5, 12, 12, 2, 8))
    weight = _inputs((5, 12, 12, 2, 8), seed=1)[0]

    def loss(q, k, v):
        return (dot_product_attention(q, k, v, implementation="xla") * weight).sum()

    whole = jax.value_and_grad(loss, (0, 1, 2))(*inputs)
    monkeypatch.setattr(attention, "_MATERIALISED_BYTES", 2 * 4 * 2 * 12 * 12)  # two sequences
    with targeting("gpu"):
        assert "scan" in str(jax.make_jaxpr(loss)(*inputs))
        grouped = jax.value_and_grad(loss, (0, 1, 2))(*inputs)
    for a, b in zip(jax.tree.leaves(grouped), jax.tree.leaves(whole), strict=True):
        assert _relative(a, b) < 1e-6
