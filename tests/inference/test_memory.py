"""The memory plan: estimates against the compiler's own figures, and what is chosen for how much memory."""

import dataclasses
import math
import re

import pytest

from star_jax.errors import InputError
from star_jax.inference import memory
from star_jax.inference.memory import plan_memory, sampling_bytes, vae_bytes
from star_jax.inference.settings import UpscaleSettings
from star_jax.models.architectures import build_model
from star_jax.ops.platform import targeting
from star_jax.presets import get_preset

FULL, TINY = build_model(get_preset("i2vgen-xl")), build_model(get_preset("tiny"))
HALF = build_model(get_preset("i2vgen-xl"), dtype="bfloat16")
GIB = 2**30


def temporaries(estimate, *args) -> float:
    """An estimate less what it sets aside for latents and pieces, which no program's temporaries hold."""
    held = {"_LATENTS_HELD": 0, "_FRAMES_HELD": 0}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in held.items():
            patch.setattr(memory, name, value)
        return estimate(*args)


# Bytes of temporaries that the compiler reports for preset i2vgen-xl in float32 on a CPU (jax 0.10.2); the shape is
# (branches, frames, height, width) in latents.
@pytest.mark.parametrize(
    ("shape", "compiled"),
    [
        ((1, 8, 34, 32), 683_136_680),
        ((2, 8, 34, 32), 1_384_457_896),
        ((2, 32, 34, 32), 5_685_947_304),
        ((2, 16, 66, 64), 11_307_852_088),
    ],
)
def test_full_size_network(shape, compiled):
    branches, frames, height, width = shape
    settings = UpscaleSettings(batch_guidance=branches == 2)
    estimate = temporaries(sampling_bytes, FULL, settings, frames, (8 * height, 8 * width))
    assert estimate == pytest.approx(compiled, rel=0.25)


def test_full_size_network_on_a_tpu():
    """One device's share of 32 x 720x1280 on v5e:2x4 is one branch of 8 frames: 2.555 GiB of temporaries."""
    with targeting("tpu"):
        estimate = temporaries(
            sampling_bytes,
            HALF,
            UpscaleSettings(batch_guidance=False),
            8,
            (720, 1280),
        )
    assert estimate == pytest.approx(2.555 * GIB, rel=0.25)


# GiB of temporaries that compile-check reports for a v5e, bfloat16, libtpu 0.0.42: peak less weights.
@pytest.mark.parametrize(
    ("preset", "frames", "size", "network", "autoencoder"),
    [
        ("cogvideox-5b", 25, (480, 720), 1.60, 5.90),
        ("cogvideox-5b", 33, (720, 1280), 4.61, 14.74),
        ("cogvideox-2b", 25, (480, 720), 0.71, 5.90),
        ("cogvideox-2b", 33, (720, 1280), 2.44, 14.74),
    ],
)
def test_cogvideox_on_a_tpu(preset, frames, size, network, autoencoder):
    model, settings = build_model(get_preset(preset), dtype="bfloat16"), UpscaleSettings(window=49)
    with targeting("tpu"):
        estimate = temporaries(sampling_bytes, model, settings, frames, size)
        assert estimate == pytest.approx(network * GIB, rel=0.25)
        estimate = temporaries(vae_bytes, model, settings, None, frames, size)
        assert estimate == pytest.approx(autoencoder * GIB, rel=0.25)


@pytest.mark.parametrize(("size", "compiled"), [((256, 256), 809_239_752), ((768, 512), 4_837_346_056)])
def test_full_size_decoder(size, compiled):
    assert temporaries(vae_bytes, FULL, UpscaleSettings(), None, 3, size) == pytest.approx(compiled, rel=0.25)


def test_network_against_the_compiler(tiny_network):
    estimate = temporaries(sampling_bytes, TINY, UpscaleSettings(), 8, (144, 128))
    assert estimate == pytest.approx(tiny_network.memory_analysis().temp_size_in_bytes, rel=0.25)


def test_decoder_against_the_compiler(tiny_decoder):
    estimate = temporaries(vae_bytes, TINY, UpscaleSettings(), None, 3, (144, 128))
    assert estimate == pytest.approx(tiny_decoder.memory_analysis().temp_size_in_bytes, rel=0.25)


def plan(budget: float, **settings):
    """x4 of 480p (854x480, 48 frames) with the full-size network in bfloat16."""
    return plan_memory(HALF, UpscaleSettings(**settings), 48, (480, 854), budget=int(budget * GIB))


def test_autoencoder_on_a_gpu():
    """3 frames of 720x1280 on an H100: 3.96 GiB of temporaries to encode in float32, 3.30 to decode in float16."""
    with targeting("gpu"):
        model = build_model(get_preset("i2vgen-xl"), dtype="bfloat16")
        use = model.memory_use("gpu")
        estimate = temporaries(vae_bytes, model, UpscaleSettings(), None, 3, (720, 1280))
    values = 3 * 720 * 1280 * 4 / GIB
    assert use.encoder * values == pytest.approx(3.96, rel=0.1)
    assert 3.30 < use.decoder * values < 1.6 * 3.30
    assert estimate < 5.1 * GIB


def test_a_clip_on_a_gpu():
    """33 x 720x1280 on an H200: at most 16.4 GiB in use at any time (20.4 in an earlier version)."""
    with targeting("gpu"):
        model = build_model(get_preset("i2vgen-xl"), dtype="bfloat16")
        found = plan_memory(model, UpscaleSettings(), 33, (180, 320), budget=80 * GIB)
    assert found.settings.batch_guidance and found.settings.tile is None
    assert 20.4 * GIB < found.peak < 1.3 * 16.4 * GIB


def seen_at_once(settings: UpscaleSettings) -> int:
    tile = settings.tile or (1936, 3456)
    return math.prod(tile) * settings.window * (1 + settings.batch_guidance)


def test_less_memory_means_smaller_tiles():
    plans = [plan(budget) for budget in (2000, 300, 80, 40, 20, 12)]
    assert plans[0].settings == UpscaleSettings()
    seen = [seen_at_once(plan.settings) for plan in plans]
    assert seen == sorted(seen, reverse=True) and len(set(seen)) == len(seen)
    assert all(plan.peak <= plan.budget for plan in plans)
    decoded = [math.prod(plan.settings.vae_tile or (1936, 3456)) for plan in plans]
    assert decoded == sorted(decoded, reverse=True) and decoded[-1] < decoded[0]


def test_branches_are_separated_before_anything_is_cut():
    together = plan(2000)
    less = (together.weights + together.sampling) / GIB - 1
    assert plan(less).settings == dataclasses.replace(UpscaleSettings(), batch_guidance=False)


def test_without_guidance_there_are_no_branches():
    assert plan(16, guidance_scale=1.0).settings.batch_guidance
    assert "branch" not in plan(16, guidance_scale=1.0).describe()


def test_480p_times_4_becomes_practical():
    """Whole frames would need hundreds of GiB."""
    needed = plan(16)
    assert needed.peak < 16 * GIB < plan(2000).peak / 10
    assert needed.settings.tile is not None and needed.settings.vae_tile is not None


def test_too_little_memory_names_the_least_that_works():
    with pytest.raises(InputError, match=r"max-memory is 2 GiB") as raised:
        plan(2)
    least = float(re.search(r"give --max-memory ([\d.]+)GiB", str(raised.value))[1])
    assert plan(least).peak <= least * GIB
    with pytest.raises(InputError):
        plan(least - 0.02)


def test_what_the_user_chose_stays():
    chosen = plan(30, tile=(720, 1280), window=8, vae_tile=(400, 640)).settings
    assert (chosen.tile, chosen.window, chosen.vae_tile) == ((720, 1280), 8, (400, 640))
    with pytest.raises(InputError, match=r"max-memory is 12 GiB"):
        plan(12, tile=(1936, 3456))


def test_the_plan_in_one_line():
    line = plan(16).describe()
    assert "\n" not in line and line.startswith("memory: about ") and "of 16 GiB" in line
    assert "tiles of" in line and "the branches of guidance one after the other" in line
    assert "whole frames; VAE on whole frames" in plan(2000).describe()


def test_memory_of_this_machine():
    assert GIB / 4 < memory.device_memory() <= memory.host_memory()
