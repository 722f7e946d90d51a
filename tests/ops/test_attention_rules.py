"""Every attention of every preset runs forward and backward on every platform, so far as a CPU can tell."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fewer_levels import FEWER_LEVELS
from jax._src.cudnn import fused_attention_stablehlo as jax_cudnn

from star_jax.config import StarConfig
from star_jax.launch.experiment import run_config_file, with_changes
from star_jax.models import attention as attention_layers
from star_jax.models.architectures import build_model
from star_jax.models.svd_vae import blocks as vae_blocks
from star_jax.ops import cudnn
from star_jax.ops.attention import dot_product_attention
from star_jax.ops.attention_rules import KERNEL_RULES, choose_implementation, refusal
from star_jax.ops.platform import targeting
from star_jax.presets import PRESETS
from star_jax.train.star.objective import StarObjective

# Frames, height and width of latents: odd frames at a small size, a published size. Other sizes have other lengths
# only, which `test_auto_takes_every_length` goes through.
SIZES = {"i2vgen-xl": [(32, 90, 160)], "tiny": [(3, 34, 32), (33, 90, 160)]}
HALF = (jnp.bfloat16, jnp.float16)


@pytest.fixture
def cudnn_present(monkeypatch):
    """JAX's own checks and lowering for CUDA, as on a GPU with cuDNN 9.10 and compute capability 9.0."""
    monkeypatch.setattr(jax_cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(jax_cudnn, "check_compute_capability", lambda capability: float(capability) <= 9.0)
    monkeypatch.setattr(jax_cudnn, "is_cuda_compute_capability_equal", lambda capability: False)


# All but those that other tests make.
_PRESETS = [
    name
    for name, config in PRESETS.items()
    if type(config) is StarConfig and name not in ("one-level", "assembled")
]


@functools.cache
def sites(preset: str, size: tuple[int, int, int]) -> frozenset:
    """(q_shape, k_shape) of every attention of a preset's networks, as tracing them meets them."""
    found = set()

    def record(q, k, v, **_):
        found.add((q.shape, k.shape))
        return jnp.zeros_like(q)

    config = PRESETS[preset]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_layers, "dot_product_attention", record)
        patch.setattr(vae_blocks, "dot_product_attention", record)
        model = build_model(config)
        params = model.abstract_params()
        latents = jax.ShapeDtypeStruct((1, *size, config.unet.in_channels), jnp.float32)
        context = jax.ShapeDtypeStruct((1, 77, config.unet.cross_attention_dim), jnp.float32)
        steps = jax.ShapeDtypeStruct((1,), jnp.int32)
        jax.eval_shape(
            lambda *arguments: model.velocity(*arguments), params, latents, steps, context, latents
        )
        group = jax.ShapeDtypeStruct((1, 3, *size[1:], config.vae.latent_channels), jnp.float32)
        jax.eval_shape(lambda p, x: model.decode(p, x)[0], params, group)
    return frozenset(found)


def differentiated(q, k, v, implementation):
    def loss(q, k, v):
        return dot_product_attention(q, k, v, implementation=implementation).astype(jnp.float32).sum()

    return jax.grad(loss, (0, 1, 2))(q, k, v)


def abstract(q_shape, k_shape, dtype):
    return tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in (q_shape, k_shape, k_shape))


@pytest.mark.parametrize("preset", _PRESETS)
def test_every_site_runs_forward_and_backward_on_a_gpu(preset, cudnn_present):
    sizes = SIZES.get(preset, [(33, 34, 32)])
    every = frozenset().union(*(sites(preset, size) for size in sizes))
    assert len(every) >= 4 * len(sizes)
    seen = set()
    for (q_shape, k_shape), dtype in itertools.product(every, (*HALF, jnp.float32)):
        name = choose_implementation(q_shape, k_shape, dtype, "gpu")
        assert refusal(name, q_shape, k_shape, dtype, "gpu") is None
        seen.add(name)
        if name == "cudnn":
            with targeting("gpu"):
                run = functools.partial(differentiated, implementation="auto")
                jax.eval_shape(run, *abstract(q_shape, k_shape, dtype))
    assert {"cudnn", "xla", "chunked"} <= seen


@pytest.mark.parametrize("size", [(7, 30, 45), (9, 45, 80)])
def test_attention_of_all_tokens_runs_forward_and_backward_on_a_gpu(size, cudnn_present):
    """CogVideoX's one kind of site: text and video of a clip, any length."""
    config = PRESETS["cogvideox-5b"].transformer
    shape = (2, config.text_length + math.prod(size), config.num_attention_heads, config.attention_head_dim)
    assert choose_implementation(shape, shape, jnp.bfloat16, "gpu") == "cudnn"
    assert refusal("cudnn", shape, shape, jnp.bfloat16, "gpu") is None
    with targeting("gpu"):
        run = functools.partial(differentiated, implementation="auto")
        jax.eval_shape(run, *abstract(shape, shape, jnp.bfloat16))


def test_text_of_77_tokens_lowers_for_cuda_with_its_padding_masked(cudnn_present):
    q_shape, k_shape = (1, 32 * 34 * 32, 5, 64), (1, 77, 5, 64)
    with targeting("gpu"):
        program = jax.jit(functools.partial(differentiated, implementation="cudnn"))
        forward = jax.jit(functools.partial(dot_product_attention, implementation="cudnn"))
        arguments = abstract(q_shape, k_shape, jnp.bfloat16)
        text = program.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
        plain = forward.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaSoftmaxBackward" in text and "PADDING" in text and "1x80x5x64xbf16" in text
    assert "__cudnn$fmhaSoftmax" in plain and "NO_MASK" in plain and "1x80x" not in plain


def test_the_table_says_what_jax_s_own_checks_say(cudnn_present):
    """What cuDNN's row allows, JAX takes; what it forbids, JAX refuses, and so an odd length unpadded."""
    rules = KERNEL_RULES["cudnn"]
    for head_dim, dtype in itertools.product((4, 8, 16, 24, 64, 128), (*HALF, jnp.float32)):
        shape = (2, 64, 3, head_dim)
        with targeting("gpu"):
            allowed = refusal("cudnn", shape, shape, dtype, "gpu") is None
        attend = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
        try:
            jax.eval_shape(attend, *abstract(shape, shape, dtype))
            taken = True
        except (NotImplementedError, ValueError):
            taken = False
        assert taken == allowed
    assert rules.even_backward
    with pytest.raises(NotImplementedError, match="Unsupported sequence length"):
        jax.eval_shape(
            lambda *x: jax.vjp(attend, *x)[0], *abstract((1, 64, 2, 64), (1, 77, 2, 64), jnp.bfloat16)
        )


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_auto_takes_every_length(platform):
    lengths = [1, 2, 3, 7, 31, 32, 33, 77, 78, 127, 128, 129, 260, 960, 3680, 14400, 14401]
    for q, k, head_dim in itertools.product(lengths, lengths, (16, 32, 64, 320, 512)):
        for dtype in (*HALF, jnp.float32):
            shapes = (1, q, 2, head_dim), (1, k, 2, head_dim)
            name = choose_implementation(*shapes, dtype, platform)
            assert refusal(name, *shapes, dtype, platform) is None


@pytest.mark.parametrize(("q_length", "k_length"), [(20, 77), (21, 21), (33, 6)])
def test_padding_changes_neither_output_nor_gradient(q_length, k_length, monkeypatch):
    """The padded form on XLA's attention, whose masks are as cuDNN's: by sequence lengths."""
    monkeypatch.setattr(cudnn, "_IMPLEMENTATION", "xla")
    rng = np.random.default_rng(0)
    shapes = ((2, q_length, 3, 8), (2, k_length, 3, 8), (2, k_length, 3, 8))
    q, k, v = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    weight = rng.standard_normal(q.shape).astype(np.float32)

    def value_and_gradient(attend):
        def loss(*inputs):
            out = attend(*inputs)
            return (out * weight).sum(), out

        (_, out), gradient = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
        return out, *gradient

    found = value_and_gradient(cudnn.cudnn_attention)
    wanted = value_and_gradient(functools.partial(dot_product_attention, implementation="xla"))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_training_step_traces_for_a_gpu(cudnn_present, monkeypatch):
    """The whole loss with its gradient in bfloat16, through every kind of attention with 77 tokens of text."""
    monkeypatch.setitem(PRESETS, "tiny", FEWER_LEVELS)
    changes = {
        "model.preset": "tiny",
        "model.dtype": "bfloat16",
        "model.vae_checkpoint": "None",
        "data.height": 144,
        "data.width": 128,
        "data.num_frames": 3,
        "train.remat": "full",
    }
    arguments = [f"--config.{key}={value}" for key, value in changes.items()]
    config = with_changes(run_config_file("configs/tiny.py"), arguments)
    data = dataclasses.replace(config.data, source="synthetic:1")
    train = dataclasses.replace(config.train, validate_every_steps=0)
    objective = StarObjective(config.model, config.diffusion, data, train)
    trainable, frozen = objective.abstract_params()
    key = jax.eval_shape(lambda: jax.random.key(0))
    with targeting("gpu"):
        gradient = jax.make_jaxpr(jax.grad(objective.loss, has_aux=True))(
            trainable, frozen, objective.abstract_batch(2), key
        )
    assert str(gradient).count("dot_product_attention_bwd") >= 2
