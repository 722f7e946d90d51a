"""The analytic operation counts against published ones and against the compiler's."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from star_jax.benchmark import flops
from star_jax.models.components import abstract_component
from star_jax.parallel import peaks
from star_jax.presets import get_preset

FULL, TINY = get_preset("i2vgen-xl"), get_preset("tiny")


def test_full_size_network_at_720p():
    count = flops.star_flops(FULL.unet, 32, 90, 160)
    parts = (count.convolution, count.linear, count.attention)
    assert [round(part / 1e12) for part in parts] == [95, 93, 69]
    assert count.total == pytest.approx(258e12, rel=2e-3)
    assert flops.star_flops(FULL.unet, 32, 90, 160, batch=2).total == 2 * count.total


def test_original_projects_text_for_every_frame():
    """3.91 TFLOP at 8 frames of 34x32, where once per clip does with 3.87."""
    count = flops.star_flops(FULL.unet, 8, 34, 32).total
    assert count == pytest.approx(3.873e12, rel=1e-3)
    assert count + 7 * flops.text_projection_flops(FULL.unet) == pytest.approx(3.91e12, rel=1e-3)


# Norms, activations and softmax weigh more in a narrow network: 1 % in the full-size one.
def test_network_against_the_compiler(tiny_network):
    expected = flops.star_flops(TINY.unet, 8, 18, 16, batch=2).total
    assert 0.9 < flops.compiled_flops(tiny_network) / expected < 1.35


def test_vae_against_the_compiler(tiny_decoder):
    graphdef, params = abstract_component(TINY, "vae")
    frames = jax.ShapeDtypeStruct((1, 2, 80, 64, 3), jnp.float32)
    encoder = jax.jit(lambda params, x: nnx.merge(graphdef, params).encode(x)).lower(params, frames).compile()
    assert 0.9 < flops.compiled_flops(encoder) / flops.vae_encode_flops(TINY.vae, 2, 80, 64).total < 1.35
    assert (
        0.9 < flops.compiled_flops(tiny_decoder) / flops.vae_decode_flops(TINY.vae, 3, 144, 128).total < 1.35
    )


def test_counts_of_a_known_layer():
    assert flops._conv(3, 5, 9, (2, 4, 6)).total == 2 * 9 * 3 * 5 * 2 * 4 * 6
    assert flops._image_attention(8, (1, 2, 3)).total == 2 * 6 * 4 * 64 + 4 * 6 * 6 * 8


def test_training_step_counts_gradients_of_activations_and_of_the_trained_weights():
    size = (4, 80, 64)
    step = flops.train_step_flops(TINY, *size)
    latents = (4, 10, 8)
    unet, controlnet = (count(TINY.unet, *latents) for count in (flops.unet_flops, flops.controlnet_flops))
    encoded = flops.vae_encode_flops(TINY.vae, *size)
    assert step.convolution == 2 * (unet.convolution + encoded.convolution) + 3 * controlnet.convolution
    assert step.attention == 3 * (unet + controlnet).attention + 2 * encoded.attention
    decoded = flops.train_step_flops(TINY, *size, decoded_frames=4).total - step.total
    assert decoded > 2 * flops.vae_decode_flops(TINY.vae, *size).total
    assert flops.train_step_flops(TINY, *size, batch=3).total == 3 * step.total


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
