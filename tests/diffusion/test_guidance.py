import jax.numpy as jnp
import numpy as np
import pytest
from diffusion_golden import network, relative_error, video

from star_jax.diffusion.guidance import combine_branches, guided_velocity, make_conditioning


def branch_inputs():
    x, hint = video("x0"), video("noise")
    rng = np.random.default_rng(0)
    context, uncond = rng.standard_normal((2, 2, 7, 5)).astype(np.float32)
    return x, hint, context, uncond, jnp.array([10, 500])


def test_rescaled_guidance_by_hand():
    rng = np.random.default_rng(1)
    cond, uncond = rng.standard_normal((2, 3, 2, 4, 5, 4)).astype(np.float32)
    out = combine_branches(cond, uncond, 7.5, 0.2)
    for sample in range(3):
        plain = uncond[sample] + 7.5 * (cond[sample] - uncond[sample])
        factor = 0.2 * cond[sample].std(ddof=1) / plain.std(ddof=1) + 0.8
        assert relative_error(out[sample], plain * factor) < 1e-6


def test_full_rescaling_gives_the_conditional_deviation():
    rng = np.random.default_rng(2)
    cond, uncond = rng.standard_normal((2, 2, 3, 4, 5, 4)).astype(np.float32)
    out = combine_branches(cond, uncond, 7.5, 1.0)
    np.testing.assert_allclose(jnp.std(out, (1, 2, 3, 4)), cond.std((1, 2, 3, 4)), rtol=1e-5)


def test_branches_run_as_one_batch_and_equal_separate_runs():
    x, hint, context, uncond, timesteps = branch_inputs()
    batches = []

    def counting(params, x, *rest):
        batches.append(x.shape[0])
        return network(params, x, *rest)

    conditioning = make_conditioning(context, hint, uncond, guidance_scale=3.0)
    out = guided_velocity(counting, {}, x, timesteps, conditioning)
    assert batches == [4]
    cond_alone = network({}, x, timesteps, context, hint)
    uncond_alone = network({}, x, timesteps, uncond, hint)
    assert relative_error(out, combine_branches(cond_alone, uncond_alone, 3.0, 0.2)) < 1e-6


@pytest.mark.parametrize(("scale", "has_negative"), [(1.0, True), (7.5, False)])
def test_without_guidance_only_the_conditional_branch_runs(scale, has_negative):
    x, hint, context, uncond, timesteps = branch_inputs()
    conditioning = make_conditioning(context, hint, uncond if has_negative else None, guidance_scale=scale)
    assert conditioning.uncond_context is None
    out = guided_velocity(network, {}, x, timesteps, conditioning)
    np.testing.assert_array_equal(out, network({}, x, timesteps, context, hint))


def test_a_scale_of_one_is_the_conditional_velocity():
    rng = np.random.default_rng(3)
    cond, uncond = rng.standard_normal((2, 2, 3, 4, 5, 4)).astype(np.float32)
    assert relative_error(combine_branches(cond, uncond, 1.0, 0.2), cond) < 1e-6


def test_a_half_precision_network_is_guided_in_float32():
    x, hint, context, uncond, timesteps = branch_inputs()

    def half(*arguments):
        return network(*arguments).astype(jnp.bfloat16)

    conditioning = make_conditioning(context, hint, uncond)
    assert guided_velocity(half, {}, x, timesteps, conditioning).dtype == jnp.float32
