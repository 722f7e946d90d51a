"""Operations counted by tracing: against published figures, the compiler's, and counts by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_objective import make_objective

from star_jax.benchmark import operations
from star_jax.benchmark.aot.programs import trace_train_step
from star_jax.configs import star_i2vgenxl
from star_jax.diffusion.losses import LossConfig
from star_jax.models.architectures import build_model
from star_jax.models.layers import Conv2d
from star_jax.models.rngs import InitRngs
from star_jax.ops.attention import AttentionKernels, dot_product_attention
from star_jax.ops.flops import FlopCount, compiled_flops, count_flops, traced_flops
from star_jax.ops.platform import targeting
from star_jax.ops.remat import rematerialise
from star_jax.parallel import peaks
from star_jax.parallel.mesh import MeshConfig, make_mesh
from star_jax.presets import get_preset
from star_jax.train.operations import step_flops
from star_jax.train.star.objective import StarObjective

FULL, TINY = build_model(get_preset("i2vgen-xl")), build_model(get_preset("tiny"))
Shape = jax.ShapeDtypeStruct


def test_full_size_network_at_720p():
    count = operations.velocity_flops(FULL, (32, 90, 160))
    assert [round(part / 1e12) for part in dataclasses.astuple(count)] == [90, 98, 69]
    assert count.total == pytest.approx(258e12, rel=1e-3)


def test_original_projects_text_for_every_frame():
    """3.91 TFLOP at 8 frames of 34x32, where once per clip does with 3.87."""
    whole = operations.velocity_flops(FULL, (8, 34, 32)).total
    assert whole == pytest.approx(3.873e12, rel=1e-3)
    text = operations.condition_flops(FULL).total
    assert whole + 7 * text == pytest.approx(3.91e12, rel=1e-3)
    assert whole == operations.velocity_flops(FULL, (8, 34, 32), projected=True).total + text


# Norms, activations and softmax weigh more in a narrow network: 1 % in the full-size one.
def test_network_against_the_compiler(tiny_network):
    expected = operations.velocity_flops(TINY, (8, 18, 16), batch=2).total
    assert 0.9 < compiled_flops(tiny_network) / expected < 1.35


def test_vae_against_the_compiler(tiny_decoder):
    params = TINY.abstract_params(TINY.autoencoder_components)
    frames = Shape((1, 2, 80, 64, 3), jnp.float32)
    encoder = jax.jit(TINY.encode).lower(params, frames).compile()
    assert 0.9 < compiled_flops(encoder) / operations.encode_flops(TINY, 2, 80, 64).total < 1.35
    assert 0.9 < compiled_flops(tiny_decoder) / operations.decode_flops(TINY, 3, 144, 128).total < 1.35


def test_counts_of_known_layers():
    layer = Conv2d(192, 256, 3, dtype=jnp.float32, param_dtype=jnp.float32, rngs=InitRngs(0))
    convolution = 2 * 9 * 192 * 256 * 2 * 16 * 64
    # A size that a CPU would filter by Winograd's method, and one that it would take as a matrix product.
    assert count_flops(layer, Shape((1, 2, 16, 64, 192), jnp.float32)) == FlopCount(convolution=convolution)
    small = FlopCount(convolution=convolution / 16)
    assert count_flops(layer, Shape((1, 2, 8, 8, 192), jnp.float32)) == small
    linear = count_flops(jnp.dot, Shape((4, 3), jnp.float32), Shape((3, 5), jnp.float32))
    assert linear == FlopCount(linear=2 * 4 * 3 * 5)


@pytest.mark.parametrize("implementation", ["auto", "chunked", "splash"])
def test_every_kernel_of_attention_counts_alike(implementation):
    """Also where it works on blocks, computes twice in the backward pass, or does not run on this machine."""
    q, k = Shape((2, 300, 4, 64), jnp.float32), Shape((2, 700, 4, 64), jnp.float32)

    def attend(q, k, v):
        return dot_product_attention(q, k, v, implementation=implementation).sum()

    product = 2 * 2 * 300 * 700 * 4 * 64
    assert count_flops(attend, q, k, k) == FlopCount(attention=2 * product)
    assert count_flops(jax.grad(attend, argnums=(0, 1, 2)), q, k, k) == FlopCount(attention=6 * product)


def test_nothing_is_counted_twice():
    def loss(w, x):
        return rematerialise(lambda x: jnp.tanh(x @ w), "full")(x).sum()

    w, x = Shape((8, 8), jnp.float32), Shape((4, 8), jnp.float32)
    assert count_flops(jax.grad(loss, argnums=(0, 1)), w, x).linear == 3 * 2 * 4 * 8 * 8


def test_training_step_counts_gradients_of_activations_and_of_the_trained_weights():
    """As much as forwards for activations, and again for the ControlNet's weights."""
    velocity_only = make_objective(LossConfig(frequency="off"))
    model, sizes = velocity_only.model, (velocity_only.data.height, velocity_only.data.width)
    shape = (velocity_only.data.num_frames, *model.size_rule.latent_size(*sizes))
    network = operations.velocity_flops(model, shape, batch=2).total
    encoded = 2 * 2 * operations.encode_flops(model, shape[0], *sizes).total
    step = step_flops(velocity_only, 2)
    assert 2 * network < step - encoded < 3 * network
    assert step_flops(velocity_only, 4) == pytest.approx(2 * step, rel=1e-6)
    # Four frames in two groups of three, for which the spectra's few products are nothing.
    decoded = step_flops(make_objective(LossConfig()), 2) - step
    group = operations.decode_flops(model, 3, *sizes).total
    assert decoded == pytest.approx(2 * 2 * 2 * group, rel=0.1)


def test_full_size_training_step_with_what_remat_computes_twice():
    """The program that docs/benchmarks.md reports as compiled for TPUs, traced only: 32 x 720x1280, one clip."""
    config = star_i2vgenxl.get_config("paper")
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, checkpoint=None),
        train=dataclasses.replace(config.train, batch_size=1, validate_every_steps=0),
    )
    with targeting("tpu"):
        objective = StarObjective(config.model, config.diffusion, config.data, config.train)
    traced = trace_train_step(objective, config, make_mesh(MeshConfig(), jax.devices()[:1]))
    assert traced_flops(traced) == pytest.approx(2631e12, rel=1e-3)


def test_kernels_and_dtype_of_the_model_do_not_matter():
    other = build_model(
        get_preset("tiny"), dtype="bfloat16", kernels=AttentionKernels.all("chunked"), remat="full"
    )
    np.testing.assert_equal(*(operations.velocity_flops(model, (4, 10, 8)).total for model in (TINY, other)))


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H200", 989.5),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("TPU v4", 275.0),
        ("TPU v5 lite", 197.0),
        ("TPU v5p", 459.0),
        ("TPU v5", 459.0),
        ("TPU v6 lite", 918.0),
        ("cpu", None),
    ],
)
def test_peak_of_a_device(kind, peak):
    assert peaks.peak_tflops(kind) == peak


def test_mfu():
    assert peaks.mfu(430e12, device_peak=790.0) == pytest.approx(0.544, abs=1e-3)
    assert peaks.mfu(430e12, device_peak=215.0, num_devices=4) == pytest.approx(0.5)
    assert peaks.mfu(1e12) is None  # a CPU's peak is not known
