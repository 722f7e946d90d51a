import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion_golden import golden

from star_jax.diffusion.windows import (
    fresh_windows,
    join_fresh_windows,
    kept_frames,
    make_windows,
    map_fresh_windows,
    map_windows,
)
from star_jax.errors import InputError

RELEASED = json.loads((Path(__file__).parents[1] / "golden" / "chunks_and_padding.json").read_text())


@pytest.mark.parametrize(
    ("num_frames", "max_window", "expected"), RELEASED["make_chunks(frames,max_chunk_len)->[start,end)"]
)
def test_windows_match_the_released_ones(num_frames, max_window, expected):
    assert make_windows(num_frames, max_window) == tuple(map(tuple, expected))


def test_recorded_windows():
    assert make_windows(20, 8) == tuple(map(tuple, golden()["chunk/inds"]))


@pytest.mark.parametrize("max_window", [2, 3, 4, 5, 7, 8, 13, 16, 31, 32])
def test_windows_cover_every_frame_exactly_once_after_the_cut(max_window):
    for num_frames in range(1, 5 * max_window + 3):
        windows = make_windows(num_frames, max_window)
        kept = kept_frames(windows)
        frames = [frame for start, stop in kept for frame in range(start, stop)]
        assert frames == list(range(num_frames))
        for (start, stop), (first, last) in zip(windows, kept, strict=True):
            assert start <= first < last <= stop
        lengths = [stop - start for start, stop in windows]
        assert len(set(lengths)) <= 2 and set(lengths[:-1]) <= {max_window}
        assert lengths[-1] <= 1.25 * max_window
        if len(windows) > 1:
            assert lengths[-1] >= max_window / 2


@pytest.mark.parametrize("num_frames", [6, 9, 16, 20, 21, 23])
def test_mapping_a_framewise_function_changes_nothing(num_frames):
    a, b = np.random.default_rng(0).standard_normal((2, 1, num_frames, 3, 2, 4)).astype(np.float32)
    windows = make_windows(num_frames, 8)
    out = map_windows(lambda a, b: jnp.sin(a) + b, windows, a, b)
    np.testing.assert_allclose(out, np.sin(a) + b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("num_frames", "lengths"), [(6, [6]), (20, [8]), (21, [8, 9]), (23, [8, 7])])
def test_a_function_is_traced_once_for_each_length(num_frames, lengths):
    traced = []

    def fn(x):
        traced.append(x.shape[1])
        return x

    windows = make_windows(num_frames, 8)
    jax.jit(lambda x: map_windows(fn, windows, x)).trace(jnp.zeros((1, num_frames, 2, 2, 4)))
    assert sorted(set(traced)) == sorted(set(lengths)) and len(traced) == len(lengths)


def test_every_window_decides_its_part():
    """A function that knows its window's first frame shows where the cuts are."""
    x = jnp.arange(21.0).reshape(1, 21, 1, 1, 1)
    out = map_windows(lambda x: jnp.broadcast_to(x[:, :1], x.shape), make_windows(21, 8), x)
    assert make_windows(21, 8) == ((0, 8), (4, 12), (8, 16), (12, 21))
    assert out.ravel().tolist() == [0.0] * 6 + [4.0] * 4 + [8.0] * 4 + [12.0] * 7


@pytest.mark.parametrize(("num_frames", "max_window"), [(0, 8), (10, 1), (10, 0)])
def test_impossible_windows_are_named(num_frames, max_window):
    with pytest.raises(InputError, match="at least"):
        make_windows(num_frames, max_window)


@pytest.mark.parametrize("length", [3, 4, 7, 13])
def test_fresh_windows_never_decide_their_own_first_latent(length):
    for count in range(1, 4 * length):
        windows = fresh_windows(count, length)
        assert {stop - start for start, stop in windows} == {min(count, length)}
        kept = kept_frames(windows)
        assert [latent for start, stop in kept for latent in range(start, stop)] == list(range(count))
        for (start, stop), (first, last) in zip(windows[1:], kept[1:], strict=True):
            assert start < first < last <= stop
    with pytest.raises(InputError, match="the window is 2 latents; choose at least 3"):
        fresh_windows(9, 2)


def test_fresh_windows_see_clips_of_their_own():
    """Each window gets its own first latent and its own hint; what it says of that latent goes back there."""
    windows = fresh_windows(11, 5)  # (0, 5), (3, 8), (6, 11)
    assert windows == ((0, 5), (3, 8), (6, 11))
    x = np.array([*range(11), 103, 106], np.float32).reshape(1, 13, 1, 1, 1)
    hint = np.concatenate([np.arange(start, stop) + 1000 * i for i, (start, stop) in enumerate(windows)])
    hint = hint.astype(np.float32).reshape(1, 15, 1, 1, 1)
    seen = []
    out = map_fresh_windows(
        lambda x, hint: jax.debug.callback(lambda *a: seen.append(a), x, hint) or x + hint, windows, x, hint
    )
    jax.effects_barrier()
    assert [list(x.ravel()) for x, _ in seen] == [
        [0, 1, 2, 3, 4],
        [103, 4, 5, 6, 7],
        [106, 7, 8, 9, 10],
    ]
    assert [list(hint.ravel()) for _, hint in seen] == [
        [0, 1, 2, 3, 4],
        [1003, 1004, 1005, 1006, 1007],
        [2006, 2007, 2008, 2009, 2010],
    ]
    by_window = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 1, 2]) * 1000
    place = np.array([*range(11), 3, 6])
    np.testing.assert_array_equal(np.ravel(out), np.ravel(x) + place + by_window)
    np.testing.assert_array_equal(np.ravel(join_fresh_windows(jnp.asarray(hint), windows)), place + by_window)
