"""The autoencoder against diffusers', small and seeded; the full size's parameter count."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder as TorchVAE
from flax import nnx
from torch_weights import jitted, load_torch, parameter_sizes, randomize, relative_error

from star_jax.config import VAEConfig
from star_jax.models.posterior import DiagonalGaussian
from star_jax.models.svd_vae.vae import AutoencoderKLTemporalDecoder
from star_jax.presets import PRESETS

# diffusers fixes 32 groups, so no width below 32.
CONFIG = VAEConfig(block_out_channels=(32, 64), layers_per_block=2, norm_num_groups=32)
TOLERANCE = 1e-5


def torch_vae(config: VAEConfig) -> TorchVAE:
    return TorchVAE(
        down_block_types=("DownEncoderBlock2D",) * len(config.block_out_channels),
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
    )


def abstract_vae(config: VAEConfig, **kwargs) -> AutoencoderKLTemporalDecoder:
    return nnx.eval_shape(
        lambda: AutoencoderKLTemporalDecoder.from_config(config, rngs=nnx.Rngs(0), **kwargs)
    )


@pytest.fixture(scope="module")
def reference() -> TorchVAE:
    return randomize(torch_vae(CONFIG), seed=0)


@pytest.fixture(scope="module")
def vae(reference) -> AutoencoderKLTemporalDecoder:
    return load_torch(abstract_vae(CONFIG), reference.state_dict())


def to_torch(video: np.ndarray) -> torch.Tensor:
    """[B, F, H, W, C] to [B * F, C, H, W]."""
    return torch.from_numpy(np.moveaxis(video.reshape(-1, *video.shape[2:]), -1, 1).copy())


def from_torch(frames: torch.Tensor, batch: int) -> np.ndarray:
    """[B * F, C, H, W] to [B, F, H, W, C]."""
    video = np.moveaxis(frames.detach().numpy(), 1, -1)
    return video.reshape(batch, -1, *video.shape[1:])


def normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_encode_matches_diffusers(reference, vae):
    frames = np.tanh(normal((2, 3, 16, 12, 3), seed=1))
    with torch.no_grad():
        expected = reference.encode(to_torch(frames)).latent_dist
    posterior = jitted(vae, "encode")(frames)
    assert posterior.mean.shape == (2, 3, 8, 6, 4)
    assert relative_error(posterior.mean, from_torch(expected.mean, 2)) < TOLERANCE
    assert relative_error(posterior.logvar, from_torch(expected.logvar, 2)) < TOLERANCE
    assert relative_error(posterior.mode(), from_torch(expected.mode(), 2)) < TOLERANCE

    drawn = expected.sample(torch.Generator().manual_seed(5))
    noise = torch.randn(expected.mean.shape, generator=torch.Generator().manual_seed(5))
    assert relative_error(posterior.sample(from_torch(noise, 2)), from_torch(drawn, 2)) < TOLERANCE


@pytest.mark.parametrize(("batch", "num_frames"), [(2, 3), (1, 1)])
def test_decode_matches_diffusers(reference, vae, batch, num_frames):
    latents = normal((batch, num_frames, 8, 6, 4), seed=2)
    with torch.no_grad():
        expected = reference.decode(to_torch(latents), num_frames=num_frames).sample
    frames = jitted(vae, "decode")(latents)
    assert frames.shape == (batch, num_frames, 16, 12, 3)
    assert relative_error(frames, from_torch(expected, batch)) < TOLERANCE


def test_down_block_matches_diffusers(reference, vae):
    x = normal((2, 3, 8, 6, 32), seed=3)
    with torch.no_grad():
        expected = reference.encoder.down_blocks[0](to_torch(x))
    assert relative_error(jitted(vae.encoder.down_blocks[0])(x), from_torch(expected, 2)) < TOLERANCE


def test_spatio_temporal_block_matches_diffusers(reference, vae):
    x = normal((2, 3, 8, 6, 64), seed=4)
    with torch.no_grad():
        expected = reference.decoder.up_blocks[1].resnets[0](
            to_torch(x), image_only_indicator=torch.zeros(2, 3)
        )
    block = vae.decoder.up_blocks[1].resnets[0]
    assert relative_error(jitted(block)(x), from_torch(expected, 2)) < TOLERANCE


@pytest.mark.parametrize("implementation", ["xla", "chunked"])
def test_attention_matches_diffusers(reference, implementation):
    x = normal((1, 2, 8, 6, 64), seed=5)
    torch_attention = reference.decoder.mid_block.attentions[0]
    with torch.no_grad():
        expected = torch_attention(to_torch(x))
    attention = abstract_vae(CONFIG, attention=implementation).decoder.mid_block.attentions[0]
    load_torch(attention, torch_attention.state_dict())
    assert relative_error(jitted(attention)(x), from_torch(expected, 1)) < TOLERANCE


def test_bfloat16_keeps_close(reference):
    torch_block = reference.decoder.up_blocks[1].resnets[0]
    block = abstract_vae(CONFIG, dtype="bfloat16").decoder.up_blocks[1].resnets[0]
    load_torch(block, torch_block.state_dict())
    x = normal((1, 3, 8, 6, 64), seed=6)
    with torch.no_grad():
        expected = torch_block(to_torch(x), image_only_indicator=torch.zeros(1, 3))
    actual = jitted(block)(x.astype("bfloat16"))
    assert actual.dtype == "bfloat16"
    assert relative_error(actual.astype("float32"), from_torch(expected, 1)) < 0.02


def test_log_variance_is_clamped():
    posterior = DiagonalGaussian.from_moments(np.array([[0.5, -1.0, 50.0, -50.0]], np.float32))
    np.testing.assert_array_equal(posterior.mean, [[0.5, -1.0]])
    np.testing.assert_array_equal(posterior.logvar, [[20.0, -30.0]])


def test_tiny_preset_keeps_the_spatial_factor():
    config = PRESETS["tiny"].vae
    graphdef, state = nnx.split(abstract_vae(config))

    def round_trip(state, frames):
        model = nnx.merge(graphdef, state)
        posterior = model.encode(frames)
        return posterior.mean, model.decode(posterior.mode())

    frames = jax.ShapeDtypeStruct((1, 2, 32, 24, 3), "float32")
    latents, decoded = jax.eval_shape(round_trip, state, frames)
    assert latents.shape == (1, 2, 4, 3, 4)
    assert decoded.shape == frames.shape


def test_full_size_parameters():
    sizes = parameter_sizes(abstract_vae(VAEConfig()))
    with torch.device("meta"):
        expected = torch_vae(VAEConfig())
    assert len(sizes) == len(expected.state_dict())
    assert sum(sizes) == sum(tensor.numel() for tensor in expected.state_dict().values()) == 97_742_847


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_in_float32_are_not_made_of_bfloat16_on_a_tpu(dtype):
    graph, params = nnx.split(abstract_vae(CONFIG, dtype=jnp.dtype(dtype)))

    def reconstruct(params, frames):
        vae = nnx.merge(graph, params)
        return vae.decode(vae.encode(frames).mode())

    frames = jax.ShapeDtypeStruct((1, 2, 16, 16, 3), dtype)

    def products() -> list[str]:
        program = jax.jit(reconstruct).trace(params, frames).lower(lowering_platforms=("tpu",)).as_text()
        return [
            line for line in program.splitlines() if re.search("stablehlo.(convolution|dot_general)", line)
        ]

    assert len(products()) > 40
    assert {"HIGH" in line for line in products()} == {dtype == "float32"}
    with jax.default_matmul_precision("highest"):  # the user's choice stays
        assert all("HIGHEST" in line for line in products())
