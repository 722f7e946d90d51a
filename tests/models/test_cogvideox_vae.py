"""The causal autoencoder against the original's numbers and diffusers' module."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cogvideox_golden import GOLDEN, VAE_CONFIG, filled, vae_state
from diffusers import AutoencoderKLCogVideoX as TorchVAE
from flax import nnx
from torch_weights import parameter_sizes, relative_error

from star_jax.config.cogvideox import CausalVAEConfig
from star_jax.convert.cogvideox_vae_tables import cogvideox_vae_table, diffusers_cogvideox_vae_table
from star_jax.models.cogvideox.stretches import in_stretches, stretch_frames
from star_jax.models.cogvideox.vae import AutoencoderKLCogVideoX
from star_jax.models.cogvideox.vae_layers import Statistics, halve_frames

TOLERANCE = 1e-5
FOUR_FRAMES = 4 * 24 * 40  # pixels of a stretch


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "cogvideox_vae.npz"))


class Golden:
    """The small autoencoder with the golden weights; each method compiled once for every shape."""

    def __init__(self):
        module = nnx.eval_shape(lambda: AutoencoderKLCogVideoX(VAE_CONFIG, rngs=nnx.Rngs(0)))
        self.state = vae_state()
        self.params = filled(cogvideox_vae_table(VAE_CONFIG, self.state), self.state, "vae", module)
        self.graphdef, _ = nnx.split(module)
        self._jitted = {}

    def __call__(self, method: str, *args, **kwargs):
        run = self._jitted.setdefault(
            (method, *kwargs.items()),
            jax.jit(lambda params, *args: getattr(nnx.merge(self.graphdef, params), method)(*args, **kwargs)),
        )
        return run(self.params, *args)


@pytest.fixture(scope="module")
def vae() -> Golden:
    return Golden()


def channels_last(video) -> np.ndarray:
    return np.moveaxis(np.asarray(video), 1, -1)


def moments_of(posterior) -> np.ndarray:
    return np.moveaxis(np.concatenate([posterior.mean, posterior.logvar], -1), -1, 1)


@pytest.mark.parametrize("frames", [5, 9, 13, 17])
def test_encode(golden, vae, frames):
    posterior = vae("encode", channels_last(golden[f"video/{frames}"]), stretch_pixels=FOUR_FRAMES)
    expected = golden[f"moments/{frames}"].copy()
    expected[:, 16:] = expected[:, 16:].clip(-30, 20)
    assert relative_error(moments_of(posterior), expected) < TOLERANCE  # about 2e-6
    if frames == 9:
        drawn = posterior.sample(channels_last(golden["posterior_noise"]))
        assert relative_error(drawn, channels_last(golden["sampled/9"])) < TOLERANCE


def test_encode_in_one_call_and_in_groups(golden, vae):
    """A clip in one call is the clip in stretches; diffusers' groups are not, from 16 frames on."""
    video = channels_last(golden["video/17"])
    whole = moments_of(vae("encode", video))
    assert relative_error(whole, golden["moments/17"]) < TOLERANCE
    reference = torch_vae(vae)
    with torch.no_grad():
        expected = reference.encode(torch.from_numpy(golden["video/17"])).latent_dist.parameters.numpy()
    first, caches = vae("encode_group", video[:, :9])
    second, _ = vae("encode_group", video[:, 9:], caches)
    grouped = np.concatenate([moments_of(first), moments_of(second)], axis=2)
    assert relative_error(grouped, expected) < TOLERANCE
    assert relative_error(grouped, whole) > 0.05


def torch_vae(vae: Golden) -> TorchVAE:
    reference = TorchVAE(
        block_out_channels=VAE_CONFIG.block_out_channels, layers_per_block=VAE_CONFIG.layers_per_block
    )
    names = {rule.target: rule.source for rule in diffusers_cogvideox_vae_table(VAE_CONFIG, ()).rules}
    state = {
        names[rule.target]: torch.from_numpy(np.array(vae.state[rule.source]))
        for rule in cogvideox_vae_table(VAE_CONFIG, ()).rules
    }
    reference.load_state_dict(state, strict=True)
    return reference.eval()


def in_groups(vae: Golden, latents: np.ndarray, first: int, pixels: int | None) -> np.ndarray:
    """Decodes the first latents, then two at a time; [B, C, F, H, W]."""
    latents = channels_last(latents)
    frames, caches = vae("decode_group", latents[:, :first], band_pixels=pixels)
    parts = [frames]
    for start in range(first, latents.shape[1], 2):
        frames, caches = vae("decode_group", latents[:, start : start + 2], caches, band_pixels=pixels)
        parts.append(frames)
    return np.moveaxis(np.concatenate(parts, axis=1), -1, 1)


@pytest.mark.parametrize("pixels", [None, 8 * 8 * 40])
def test_decode(golden, vae, pixels):
    """Three latents, then two at a time, with what convolutions saw last carried over; at once or in bands."""
    decoded = in_groups(vae, golden["z/7"], 3, pixels)
    assert relative_error(decoded, golden["decode_star/7"]) < TOLERANCE  # about 1e-6
    if pixels is not None:
        return
    for count, first, name in ((3, 3, "star"), (5, 3, "star"), (4, 2, "pairs")):
        frames = in_groups(vae, golden[f"z/{count}"], first, pixels)
        assert relative_error(frames, golden[f"decode_{name}/{count}"]) < TOLERANCE
    with torch.no_grad():
        expected = torch_vae(vae).decode(torch.from_numpy(golden["z/7"])).sample.numpy()
    assert relative_error(decoded, expected) < TOLERANCE


@pytest.mark.parametrize("count", [1, 2])
def test_decode_in_one_call(golden, vae, count):
    frames, _ = vae("decode_group", channels_last(golden[f"z/{count}"]))
    assert relative_error(np.moveaxis(frames, -1, 1), golden[f"decode_whole/{count}"]) < TOLERANCE


def test_decode_joins_the_groups(vae):
    graphdef, params = vae.graphdef, vae.params
    latents = jax.ShapeDtypeStruct((2, 7, 3, 5, 16), jnp.float32)
    frames = jax.eval_shape(lambda params, z: nnx.merge(graphdef, params).decode(z), params, latents)
    assert frames.shape == (2, 25, 24, 40, 3)


def test_stretches_bound_memory():
    """Temporary memory of a long clip is little more than one copy of the finest activations."""
    config = CausalVAEConfig(block_out_channels=(32, 32), layers_per_block=1, temporal_levels=1)
    module = nnx.eval_shape(lambda: AutoencoderKLCogVideoX(config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(module)
    clip = jax.ShapeDtypeStruct((1, 33, 64, 64, 3), jnp.float32)
    one_map = 33 * 64 * 64 * 32 * 4

    def temporary(pixels: int) -> int:
        encode = jax.jit(lambda params, clip: nnx.merge(graphdef, params).encode(clip, pixels).mean)
        lowered = encode.lower(nnx.to_pure_dict(state), clip)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary(2 * 64 * 64) < 2.5 * one_map
    assert temporary(33 * 64 * 64) > 3 * one_map


@pytest.mark.parametrize(("frames", "length"), [(9, 4), (8, 4), (3, 4), (5, 2), (17, 6)])
def test_stretches_are_the_whole(frames, length):
    x = np.random.default_rng(0).standard_normal((1, frames, 2, 2, 4)).astype(np.float32)

    def running_sum(carry, part):
        total = carry + jnp.cumsum(part, axis=1)
        return total[:, -1:], total

    total, out = in_stretches(running_sum, jnp.asarray(x), jnp.zeros((1, 1, 2, 2, 4)), length)
    np.testing.assert_allclose(out, np.cumsum(x, axis=1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(total[:, 0], x.sum(1), rtol=1e-5, atol=1e-5)
    if length % 2 == 0:
        _, halves = in_stretches(lambda carry, part: (carry, halve_frames(part)), jnp.asarray(x), 0, length)
        np.testing.assert_allclose(halves, halve_frames(jnp.asarray(x)), rtol=1e-6)


def test_statistics_merge_without_losing_digits():
    x = 1000 + np.random.default_rng(1).standard_normal((2, 6, 3, 3, 8)).astype(np.float32)
    merged = Statistics.empty(2, 4)
    for start in (0, 1, 4):
        merged = merged.merge(Statistics.of(jnp.asarray(x[:, start : {0: 1, 1: 4, 4: 6}[start]]), 4))
    exact = x.astype(np.float64).reshape(2, 6 * 9, 4, 2)
    np.testing.assert_allclose(merged.mean, exact.mean((1, 3)), rtol=1e-6)
    np.testing.assert_allclose(merged.squares / merged.count, exact.var((1, 3)), rtol=1e-3)


def test_stretch_lengths_are_even():
    assert [stretch_frames(10, 10, pixels) for pixels in (50, 399, 400, 650)] == [2, 2, 4, 6]


def test_full_size():
    module = nnx.eval_shape(lambda: AutoencoderKLCogVideoX(CausalVAEConfig(), rngs=nnx.Rngs(0)))
    assert sum(parameter_sizes(module)) == 215_583_907
    with torch.device("meta"):
        expected = TorchVAE(block_out_channels=(128, 256, 256, 512), layers_per_block=3).state_dict()
    assert len(parameter_sizes(module)) == len(expected)
