"""What an upscale may be asked for, and the sizes that follow from it."""

import pytest

from star_jax.errors import InputError
from star_jax.inference.settings import MAX_SEED, NEGATIVE_PROMPT, POSITIVE_PROMPT, UpscaleSettings
from star_jax.models.size_rule import SizeRule

RULE = SizeRule(8, 64, (16, 0))  # of four levels


def test_defaults_are_the_released_script_s():
    settings = UpscaleSettings()
    assert (settings.num_inference_steps, settings.resolved_spacing) == (15, "fast")
    assert (settings.solver, settings.guidance_scale) == ("dpmpp_2m_sde", 7.5)
    assert (settings.scale, settings.window, settings.color_fix) == (4.0, 32, "adain")
    assert settings.positive_prompt == POSITIVE_PROMPT and settings.negative_prompt == NEGATIVE_PROMPT
    # To the letter, the repeated spaces too.
    assert "R camera,   hyper detailed photo - realistic" in POSITIVE_PROMPT
    assert "detailing,  skin pore" in POSITIVE_PROMPT


@pytest.mark.parametrize(
    ("steps", "spacing", "expected"),
    [(15, "auto", "fast"), (30, "auto", "normal"), (15, "normal", "normal"), (15, "fast", "fast")],
)
def test_spacing_follows_the_number_of_steps(steps, spacing, expected):
    assert UpscaleSettings(num_inference_steps=steps, spacing=spacing).resolved_spacing == expected


@pytest.mark.parametrize(
    ("scale", "size", "expected"),
    [
        (4, (240, 426), (960, 1704)),
        (4, (17, 19), (68, 76)),
        (1, (240, 426), (240, 426)),
        (1.5, (15, 21), (22, 32)),
        (2.5, (33, 45), (82, 112)),
    ],
)
def test_output_sizes_are_scaled_and_even(scale, size, expected):
    target = UpscaleSettings(scale=scale).target_size(*size)
    assert target == expected
    assert all(abs(side - scale * length) <= 1 for side, length in zip(target, size, strict=True))


@pytest.mark.parametrize(
    ("padding", "value", "target", "padded"),
    [
        ("fit", None, (80, 64), (80, 64)),
        ("fit", None, (81, 65), (144, 128)),
        ("fit", None, (960, 1704), (976, 1728)),
        ("original", 1.0, (80, 64), (720, 1280)),
        ("original", 1.0, (720, 1280), (720, 1280)),
        ("original", 1.0, (960, 1704), (976, 1728)),
        ("original", 1.0, (1080, 1920), (1104, 1984)),  # a side that fits grows by a whole step
    ],
)
def test_padding_reaches_a_size_that_the_network_takes(padding, value, target, padded):
    settings = UpscaleSettings(padding=padding)
    sides = settings.padding_of(RULE, *target)
    assert settings.padding_value == value
    assert sides.padded_size(*target) == padded
    assert padded[0] // 8 % 8 == 2 and padded[1] // 8 % 8 == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 0.5}, "scale is 0.5; choose a number of at least 1"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"scale": float("inf")}, "scale is inf"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0; choose"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0; choose"),
        ({"guidance_scale": float("inf")}, "guidance_scale is inf; choose"),
        ({"window": 1}, "window is 1; choose a number of at least 2"),
        ({"seed": -1}, "seed is -1; choose"),
        ({"seed": MAX_SEED + 1}, "seed is 4294967296; choose at most 4294967295"),
        ({"color_fix": "Adain"}, "color_fix is 'Adain'; choose one of adain, wavelet, flat-wavelet, none"),
        ({"solver": "ddim"}, "solver is 'ddim'; choose one of"),
        ({"padding": "white"}, "padding is 'white'; choose one of fit, original"),
        ({"spacing": "trailing"}, "spacing is 'trailing'; choose one of auto, fast, normal"),
        ({"spacing": "fast", "num_inference_steps": 20}, "always has 15 steps; choose spacing 'normal'"),
    ],
)
def test_settings_out_of_range_are_named_with_the_remedy(settings, message):
    with pytest.raises(InputError) as caught:
        UpscaleSettings(**settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 40), (3, 9)])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_the_smallest_pictures_are_one_tile_that_the_network_takes(size, scale):
    settings = UpscaleSettings(scale=scale, exact_size=True)
    target = settings.target_size(*size)
    latents = RULE.latent_size(*settings.padding_of(RULE, *target).padded_size(*target))
    assert len(settings.tiles_of(RULE, latents)) == len(settings.vae_tiles_of(RULE, latents)) == 1
