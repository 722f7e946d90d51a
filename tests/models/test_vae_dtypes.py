"""What the autoencoder computes in, by device or by choice; float16 decodes a real clip as float32 does."""

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.checkpoints.directory import load_component, read_config
from star_jax.errors import InputError
from star_jax.models.architectures import build_model
from star_jax.ops.platform import targeting, vae_dtypes
from star_jax.presets import BUNDLED, get_preset


def test_a_gpu_decodes_in_half_precision():
    assert vae_dtypes("auto") == (jnp.float32, jnp.float32)
    with targeting("gpu"):
        assert vae_dtypes("auto") == (jnp.float32, jnp.float16)
    with targeting("tpu"):
        assert vae_dtypes("auto") == (jnp.float32, jnp.float32)
    assert vae_dtypes("float16") == (jnp.float16, jnp.float16)
    with pytest.raises(InputError, match="dtype is int8; choose one of"):
        build_model(get_preset("tiny"), vae_dtype="int8")


def test_weights_stay_what_they_are_and_the_decoder_computes_as_asked():
    model = build_model(get_preset("tiny"), vae_dtype="auto")
    shapes = model.abstract_params(("vae",))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    latents = jax.ShapeDtypeStruct((1, 3, 4, 4, model.latent_channels), jnp.float32)
    frames = jax.ShapeDtypeStruct((1, 3, 32, 32, 3), jnp.float32)
    for platform, dtype in (("cpu", jnp.float32), ("gpu", jnp.float16)):
        with targeting(platform):
            asked = build_model(get_preset("tiny"))
            assert jax.eval_shape(asked.decode, shapes, latents)[0].dtype == dtype
            assert jax.eval_shape(asked.encode, shapes, frames)[0].mean.dtype == jnp.float32


def test_half_precision_decodes_a_real_clip_nearly_alike():
    config = read_config(BUNDLED)
    plain, half = (build_model(config, vae_dtype=dtype) for dtype in ("float32", "float16"))
    params = {"vae": load_component(BUNDLED, "vae", plain.abstract("vae"))}
    with av.open("assets/sample_truth.mp4") as video:
        pixels = np.stack([next(video.decode(video=0)).to_ndarray(format="rgb24") for _ in range(3)])
    frames = pixels[None, :, 64:160, 64:160].astype(np.float32) / 127.5 - 1
    latents = jax.jit(lambda params, x: plain.scaled(plain.encode(params, x)[0].mean))(params, frames)
    decoded = [np.asarray(jax.jit(m.decode)(params, latents)[0], np.float32) for m in (plain, half)]
    levels = [np.clip((x + 1) * 127.5, 0, 255) for x in decoded]
    assert 10 * np.log10(255**2 / np.square(levels[0] - levels[1]).mean()) > 55
