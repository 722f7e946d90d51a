"""STAR on CogVideoX from end to end: the released script's runs on small networks, its sizes, its defaults."""

import dataclasses
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cogvideox_golden import GOLDEN, VAE_CONFIG, filled, transformer_config, transformer_state, vae_state

from star_jax.benchmark.inference import InferenceBenchmark, count_inference
from star_jax.config.cogvideox import CogVideoXConfig, ZeroSNRConfig
from star_jax.convert.cogvideox_tables import star_cogvideox_table
from star_jax.convert.cogvideox_vae_tables import cogvideox_vae_table
from star_jax.diffusion.guidance import make_conditioning
from star_jax.diffusion.sampler import run_rows
from star_jax.diffusion.solvers import initial_state
from star_jax.diffusion.windows import make_windows
from star_jax.errors import InputError
from star_jax.inference.color_fix import fix_colors
from star_jax.models.architectures import build_model
from star_jax.models.cogvideox.model import CogVideoX
from star_jax.ops.pixels import resize_levels, to_float
from star_jax.presets import get_preset

STEPS = 4


def error(actual, expected) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def small_model(kind: str) -> tuple[CogVideoX, dict]:
    config = transformer_config(kind)
    factor, shift = {"rope": (0.7, 1.0), "sincos": (1.15258426, 3.0)}[kind]
    model = build_model(
        CogVideoXConfig(
            "golden",
            transformer=config,
            vae=dataclasses.replace(VAE_CONFIG, scaling_factor=factor),
            diffusion=ZeroSNRConfig(snr_shift=shift),
        )
    )
    rngs = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    from flax import nnx

    modules = {
        name: nnx.eval_shape(lambda name=name: model.build(name, rngs=nnx.Rngs(0), **rngs))
        for name in ("transformer", "vae")
    }
    state, vae = transformer_state(config, kind), vae_state()
    return model, {
        "transformer": filled(
            star_cogvideox_table(config, state), state, "transformer", modules["transformer"]
        ),
        "vae": filled(cogvideox_vae_table(VAE_CONFIG, vae), vae, "vae", modules["vae"]),
    }


def noise(kind: str, step: int, shape: tuple[int, ...]) -> np.ndarray:
    seed = zlib.crc32(f"star-dev/input:e2e/{kind}/sde{step}".encode())
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("kind", ["rope", "sincos"])
def test_the_released_script(kind):
    golden = {
        name.removeprefix(f"{kind}/"): array
        for name, array in np.load(GOLDEN / "cogvideox_end_to_end.npz").items()
        if name.startswith(kind)
    }
    model, params = small_model(kind)
    low = np.moveaxis(golden["lq_uint8"], 1, -1)
    frames = model.enlarge(jnp.asarray(low)[None], (64, 96))
    posterior, _ = jax.jit(functools.partial(model.encode, carry=None))(params, frames)
    hint = model.scaled(posterior.sample(np.moveaxis(golden["posterior_noise"], 1, -1)))
    assert error(hint, np.moveaxis(golden["lq_latents"], 1, -1)) < 1e-5

    table = model.solver_table(solver="dpmpp_2m_sde", spacing="normal", num_inference_steps=STEPS)
    context = jnp.asarray(golden["context"])
    start = np.moveaxis(golden["start"], 2, -1)
    draws = jnp.asarray(
        np.stack([np.moveaxis(noise(kind, i, golden["start"].shape), 2, -1) for i in range(STEPS)])
    )
    conditioning = make_conditioning(
        context,
        hint,
        model.unconditional_context(context),
        guidance_scale=model.guidance_scales(6.0, table),
        guidance_rescale=model.config.diffusion.guidance_rescale,
    )
    latents = run_rows(
        model,
        {"transformer": params["transformer"]},
        initial_state(table, start),
        table.rows,
        conditioning,
        jax.random.key(0),
        windows=make_windows(3, 3),
        noise_fn=lambda key, index, shape: draws[index],
    ).x
    assert error(latents, np.moveaxis(golden["latents"], 2, -1)) < 1e-5

    decoded, _ = jax.jit(functools.partial(model.decode, carry=None))(params, latents)
    truth = to_float(jnp.asarray(np.moveaxis(golden["gt_uint8"], 1, -1)))
    result = np.asarray(fix_colors(decoded[0], truth) + 1) * 127.5
    assert np.abs(np.floor(result) - golden["frames"].astype(int)).max() <= 1


def test_preprocessing_is_the_released_scripts():
    golden = {
        name: np.moveaxis(array, 1, -1)
        for name, array in np.load(GOLDEN / "cogvideox_preprocess.npz").items()
    }
    enlarged = resize_levels(jnp.asarray(golden["lq_uint8"]), (48, 72))
    np.testing.assert_array_equal(enlarged, golden["bicubic_x4_uint8"])
    smaller = resize_levels(jnp.asarray(golden["wide_uint8"]), (20, 30), "bilinear")
    np.testing.assert_array_equal(smaller, golden["bilinear_two_thirds_uint8"])
    same = build_model(get_preset("tiny-cogvideox")).enlarge(jnp.asarray(golden["lq_uint8"]), (12, 18))
    np.testing.assert_allclose(same, to_float(jnp.asarray(golden["lq_uint8"])), atol=1e-6)


def test_sizes():
    model = build_model(get_preset("cogvideox-5b"))
    rule = model.size_rule
    assert rule.padded_size(470, 721) == (480, 736) and rule.latent_size(480, 720) == (60, 90)
    assert [rule.padded_frames(n) for n in (1, 9, 10, 25, 26)] == [9, 9, 17, 25, 33]
    assert [rule.num_latents(n) for n in (9, 25, 49)] == [3, 7, 13]
    assert model.encode_chunks(25) == (25,) and model.encode_chunks(47) == (49,)
    assert model.encode_chunks(50) == (9, *(8,) * 6)  # longer than the network was made for: in groups
    chunks = model.decode_chunks(25)
    assert [chunk.latents for chunk in chunks] == [(0, 3), (3, 5), (5, 7)]
    assert [chunk.frames for chunk in chunks] == [(0, 9), (9, 17), (17, 25)]
    with pytest.raises(InputError, match="decode_overlap is 1; this model carries its state"):
        model.decode_chunks(25, 1)
    with pytest.raises(InputError, match="solver is 'heun'; preset 'cogvideox-5b' has only dpmpp_2m_sde"):
        model.solver_table(solver="heun", spacing="normal", num_inference_steps=5)


def test_what_is_trained():
    """The released filter: updates, LIEM, the input's projection and the last layers."""
    from star_jax.checkpoints.trees import flatten

    config = get_preset("cogvideox-5b")
    for lora_rank, count in ((512, 532_243_624), (0, 532_243_624 - 528_482_304)):
        sizes = dataclasses.replace(config.transformer, lora_rank=lora_rank)
        model = build_model(dataclasses.replace(config, transformer=sizes))
        leaves = flatten(model.abstract_params())
        trained = {path: leaf for path, leaf in leaves.items() if model.is_trainable(path)}
        assert sum(leaf.size for leaf in trained.values()) == count
        assert not any(path.startswith(("vae/", "text_encoder/")) for path in trained)
        everything = [path for path in leaves if model.is_trainable(path, train_base=True)]
        assert everything == [path for path in leaves if path.startswith("transformer/")]


def test_guidance():
    model = build_model(get_preset("cogvideox-5b"))
    table = model.solver_table(solver="dpmpp_2m_sde", spacing="normal", num_inference_steps=50)
    scales = model.guidance_scales(6.0, table)
    np.testing.assert_allclose(scales[:5], [2.29, 2.54, 6.97, 6.42, 2.79], atol=5e-3)
    assert scales.mean() == pytest.approx(3.8, abs=0.05)
    assert model.guidance_scales(1.0, table) == 1.0
    constant = build_model(dataclasses.replace(model.config, dynamic_guidance=False))
    assert constant.guidance_scales(6.0, table) == 6.0
    assert not model.unconditional_context(jnp.ones((1, 2, 3))).any()


@pytest.mark.parametrize(
    ("preset", "frames", "size", "tflop"),
    [
        ("cogvideox-5b", 25, (480, 720), 140.4),
        ("cogvideox-2b", 25, (480, 720), 47.3),
        ("cogvideox-5b", 33, (720, 1280), 859.8),
    ],
)
def test_operations_of_one_evaluation(preset, frames, size, tflop):
    run = InferenceBenchmark("network", preset, frames=frames, height=size[0], width=size[1])
    assert count_inference(run)["tflop_per_step"] == pytest.approx(tflop, rel=1e-3)
