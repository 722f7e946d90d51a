"""The analytic operation counts against published ones and against the compiler's."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from star_jax.benchmark import flops, peaks
from star_jax.config import get_preset
from star_jax.models.components import abstract_component
from star_jax.models.star import star_velocity

FULL, TINY = get_preset("i2vgen-xl"), get_preset("tiny-golden")


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


def test_network_against_the_compiler():
    """All but attention's softmax, norms and activations; a CPU's `xla` attention is one program without loops."""
    unet, unet_params = abstract_component(TINY, "unet")
    controlnet, controlnet_params = abstract_component(TINY, "controlnet")
    frames, height, width = 3, 18, 16
    latents = jax.ShapeDtypeStruct((1, frames, height, width, 4), jnp.float32)
    context = jax.ShapeDtypeStruct((1, 77, TINY.unet.cross_attention_dim), jnp.float32)
    params = {"unet": unet_params, "controlnet": controlnet_params}
    steps = jax.ShapeDtypeStruct((1,), jnp.int32)
    lowered = jax.jit(lambda *args: star_velocity(unet, controlnet, *args)).lower(
        params, latents, steps, context, latents
    )
    expected = flops.star_flops(TINY.unet, frames, height, width).total
    # Norms, activations and softmax weigh more in a narrow network: 1 % in the full-size one.
    assert 0.9 < flops.compiled_flops(lowered.compile()) / expected < 1.35


def vae_program(method: str, shape: tuple[int, ...]):
    graphdef, params = abstract_component(TINY, "vae")
    run = jax.jit(lambda params, x: getattr(nnx.merge(graphdef, params), method)(x))
    return run.lower(params, jax.ShapeDtypeStruct(shape, jnp.float32)).compile()


def test_vae_against_the_compiler():
    encode, decode = flops.vae_encode_flops(TINY.vae, 2, 80, 64), flops.vae_decode_flops(TINY.vae, 2, 80, 64)
    encoding, decoding = vae_program("encode", (1, 2, 80, 64, 3)), vae_program("decode", (1, 2, 10, 8, 4))
    assert 0.9 < flops.compiled_flops(encoding) / encode.total < 1.35
    assert 0.9 < flops.compiled_flops(decoding) / decode.total < 1.35


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
