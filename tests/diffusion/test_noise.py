import jax
import numpy as np

from star_jax.diffusion.noise import frame_noise, noise_key, sde_noise


def test_noise_of_a_frame_does_not_depend_on_the_number_of_frames():
    key, shape = noise_key(0), (1, 4, 4, 5, 4)
    whole = frame_noise(key, "start", (1, 9, 4, 5, 4))
    np.testing.assert_array_equal(frame_noise(key, "start", shape), whole[:, :4])
    np.testing.assert_array_equal(frame_noise(key, "start", shape, first_frame=5), whole[:, 5:])


def test_noise_is_the_same_inside_a_jitted_program():
    key, shape = noise_key(3), (1, 4, 4, 5, 4)
    jitted = jax.jit(sde_noise, static_argnums=2)(key, 5, shape)
    np.testing.assert_array_equal(jitted, sde_noise(key, 5, shape))


def test_draws_differ_by_seed_name_index_and_frame():
    shape = (1, 4, 4, 5, 4)
    draws = [
        frame_noise(noise_key(0), "sde", shape),
        frame_noise(noise_key(1), "sde", shape),
        frame_noise(noise_key(0), "start", shape),
        frame_noise(noise_key(0), "sde", shape, index=1),
    ]
    frames = np.concatenate([np.asarray(draw)[0] for draw in draws]).reshape(16, -1)
    assert np.abs(np.corrcoef(frames) - np.eye(16)).max() < 0.6
    assert len({frame.tobytes() for frame in frames}) == 16


def test_noise_is_standard_normal():
    noise = np.asarray(frame_noise(noise_key(0), "sde", (2, 5, 40, 50, 4)))
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
