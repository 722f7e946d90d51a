"""The loader: determinism over workers, exact resume, shards, bad files, placement."""

import json
import logging
import multiprocessing
import re
import threading

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from video_files import scene, write_folder, write_sound, write_truncated, write_video

from star_jax.data.config import DataConfig
from star_jax.data.loader import ClipLoader, deal_anew
from star_jax.errors import InputError, RunError
from star_jax.files import seal
from star_jax.parallel.prefetch import prefetch_to_devices

SMALL = {"num_frames": 3, "height": 32, "width": 48, "seed": 5}


def loader(source="synthetic:7", *, batch_size=2, process_index=0, process_count=1, **changes):
    config = DataConfig(str(source), **{**SMALL, **changes})
    return ClipLoader(config, batch_size=batch_size, process_index=process_index, process_count=process_count)


def take(batches, count):
    return [next(batches) for _ in range(count)]


def assert_equal_batches(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(np.asarray(value), np.asarray(other[name]), err_msg=name)


def test_batches():
    batch = next(loader(batch_size=3))
    assert batch["gt"].shape == (3, 3, 32, 48, 3) and batch["gt"].dtype == np.uint8
    assert batch["lq"].shape == (3, 3, 8, 12, 3) and batch["lq"].dtype == np.uint8
    assert len(batch["text"]) == len(batch["key"]) == 3
    np.testing.assert_array_equal(batch["index"], [0, 1, 2])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing_not_even_when_they_are_killed(num_workers, caplog):
    expected = take(loader(), 12)  # into later epochs, and past what workers have ready when they are killed
    with_workers = loader(num_workers=num_workers, read_threads=2, worker_buffer=2)
    assert_equal_batches(take(with_workers, 2), expected[:2])
    for worker in multiprocessing.active_children():  # as the system does when memory is short
        worker.kill()
    with caplog.at_level(logging.WARNING):
        assert_equal_batches(take(with_workers, 8), expected[2:10])
    assert "a loader worker was killed (exit code -9); starting the workers again" in caplog.text
    state = json.loads(json.dumps(with_workers.get_state()))
    with_workers.close()
    resumed = loader(read_threads=3)  # in this process: the number of workers is no part of the state
    resumed.set_state(state)
    assert_equal_batches(take(resumed, 2), expected[10:])


def test_resume_is_exact_through_a_training_checkpoint(tmp_path):
    expected = take(loader(), 6)
    batches = loader()
    take(batches, 4)
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        manager.save(4, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(batches)))
        manager.wait_until_finished()
        fresh = loader(read_threads=2)
        manager.restore(4, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(fresh)))
    assert_equal_batches(take(fresh, 2), expected[4:])


def test_seeds_and_epochs_differ():
    seven = take(loader(batch_size=7), 2)
    assert sorted(seven[0]["key"]) == sorted(seven[1]["key"])
    assert list(seven[0]["key"]) != list(seven[1]["key"])
    assert (next(loader(seed=6))["gt"] != next(loader())["gt"]).any()
    in_order = next(loader(batch_size=7, shuffle=False))
    assert list(in_order["key"]) == sorted(in_order["key"])


def test_two_processes_share_an_epoch():
    halves = [
        list(loader("synthetic:8", batch_size=1, num_epochs=1, process_index=index, process_count=2))
        for index in range(2)
    ]
    keys = [{batch["key"][0] for batch in half} for half in halves]
    assert len(keys[0]) == len(keys[1]) == 4
    assert not keys[0] & keys[1]
    whole = list(loader("synthetic:8", batch_size=1, num_epochs=1))
    assert {batch["key"][0] for batch in whole} == keys[0] | keys[1]
    assert_equal_batches(sorted(halves[0] + halves[1], key=lambda b: b["index"][0]), whole)


def test_batches_of_two_processes_are_one_process_s():
    """In its order, too: what is drawn by the place in a batch (dropout) does not depend on the processes."""
    halves = [
        take(loader("synthetic:10", process_index=index, process_count=2, num_epochs=1), 2)
        for index in range(2)
    ]
    whole = take(loader("synthetic:10", batch_size=4, num_epochs=1), 2)
    for first, second, both in zip(*halves, whole, strict=True):
        assert_equal_batches([{n: [*first[n], *second[n]] for n in both}], [both])


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4)])
def test_another_number_of_processes_goes_on_with_the_same_elements(before, after):
    def of_processes(count):
        sizes = {"batch_size": 4 // count, "process_count": count}
        return [loader("synthetic:10", process_index=index, **sizes) for index in range(count)]

    def places(loaders):
        """Positions of the elements of the next batch of all processes together."""
        return np.concatenate([next(batches)["index"] for batches in loaders])

    whole, old, new = of_processes(1), of_processes(before), of_processes(after)
    for _ in range(2):
        np.testing.assert_array_equal(places(old), places(whole))
    state = deal_anew([batches.get_state() for batches in old])
    for batches in new:
        batches.set_state(state)
    for _ in range(2):
        np.testing.assert_array_equal(places(new), places(whole))


def test_what_bad_clips_moved_apart_is_dealt_anew_and_said(caplog):
    old = [loader("synthetic:10", process_index=index, process_count=2) for index in range(2)]
    states = [batches.get_state() for batches in old]
    ahead = seal({name: value for name, value in states[0].items() if name != "sha256"} | {"position": 3})
    with caplog.at_level(logging.WARNING):
        merged = deal_anew([ahead, states[1]])
    assert merged["position"] == 4 and "5 clips of this epoch are left out" in caplog.text
    with pytest.raises(ValueError, match="not what was written"):
        deal_anew([{**ahead, "position": 2}])


def test_the_last_elements_go_to_the_first_processes():
    counts = [
        len(list(loader("synthetic:7", process_index=index, process_count=2, num_epochs=1)))
        for index in range(2)
    ]
    assert counts == [2, 1]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"process_count": 2}, "process_count=1, but this run has 2"),
        ({"seed": 9}, "seed=5, but this run has 9"),
        ({"batch_size": 3}, "batch_size=2, but this run has 3"),
        ({"source": "synthetic:6"}, "source_sha256="),
    ],
)
def test_a_state_of_other_data_is_refused(changes, name):
    batches = loader()
    next(batches)
    with pytest.raises(RunError, match=name):
        loader(**changes).set_state(batches.get_state())


def test_placement_keeps_the_state_of_the_batch_in_use():
    expected = take(loader(), 6)
    placed = prefetch_to_devices(loader(), lambda batch: {**batch, "placed": 1}, buffer_size=2)
    assert_equal_batches(
        [{k: v for k, v in b.items() if k != "placed"} for b in take(placed, 3)], expected[:3]
    )
    state = placed.get_state()
    placed.close()
    fresh = prefetch_to_devices(loader(), lambda batch: batch)
    next(fresh)  # what waits by now is not what follows the state
    fresh.set_state(state)
    assert_equal_batches(take(fresh, 3), expected[3:])
    fresh.close()
    on_device = list(prefetch_to_devices(loader(num_epochs=1), lambda batch: jax.device_put(batch["gt"])))
    assert len(on_device) == 3 and all(isinstance(array, jax.Array) for array in on_device)
    np.testing.assert_array_equal(on_device[0], expected[0]["gt"])


def test_placement_ends_with_its_thread_and_hands_on_the_loaders_errors():
    batches, closed = loader(), threading.Event()
    batches.close = closed.set
    placed = prefetch_to_devices(batches, lambda batch: threading.current_thread())
    thread = next(placed)
    assert thread is not threading.current_thread() and thread.is_alive()
    placed.close()
    assert not thread.is_alive() and closed.is_set()
    ClipLoader.close(batches)

    def place(batch):
        raise RunError("no room")

    failing = prefetch_to_devices(loader(), place)
    with pytest.raises(RunError, match="no room"):
        next(failing)
    failing.close()


@pytest.fixture
def mixed_folder(tmp_path):
    write_folder(tmp_path, 2)
    frames = scene(3)
    write_video(tmp_path / "good_grey.mp4", frames, pix_fmt="gray")
    write_video(tmp_path / "good_ten_bit.mp4", frames, pix_fmt="yuv420p10le")
    write_video(tmp_path / "good_odd.mkv", scene(4, 24, 65, 97), codec="ffv1", pix_fmt="bgr0")
    uneven = np.cumsum(np.tile([1, 1, 3], 8))
    write_video(tmp_path / "good_variable.mp4", frames, pts=uneven.tolist())
    write_sound(tmp_path / "bad_sound.mp4")
    write_truncated(tmp_path / "bad_truncated.mp4", frames)
    write_video(tmp_path / "bad_short.mp4", frames[:2])
    write_video(tmp_path / "bad_small.mp4", scene(5, 24, 16, 24))
    (tmp_path / "bad_noise.mp4").write_bytes(np.random.default_rng(0).bytes(4000))
    (tmp_path / "bad_empty.mp4").write_bytes(b"")
    return tmp_path


def test_bad_files_are_skipped_counted_and_named(mixed_folder, caplog):
    batches = loader(mixed_folder, batch_size=1, num_epochs=1, max_bad_share=0.6)
    with caplog.at_level(logging.WARNING):
        keys = {batch["key"][0] for batch in batches}
    good = {name.name for name in mixed_folder.glob("*.m*") if not name.name.startswith("bad")}
    assert keys == good and len(good) == 6
    assert set(batches.bad) == {
        f"bad_{kind}.mp4" for kind in ("sound", "truncated", "short", "small", "noise", "empty")
    }
    assert "too short: 2 frames, 3 needed" in batches.bad["bad_short.mp4"]
    assert "too small: 16x24" in batches.bad["bad_small.mp4"]
    assert "no video stream" in batches.bad["bad_sound.mp4"]
    assert all(f"skipped clip {key}" in caplog.text for key in batches.bad)
    assert batches.get_state()["num_bad"] == 6


def test_too_many_bad_files_stop_the_run(mixed_folder):
    batches = loader(mixed_folder, batch_size=1, num_workers=1)
    with pytest.raises(
        RunError, match=r"6 of 12 clips .* more than data\.max_bad_share=0\.1 allows; the last one was bad_"
    ):
        take(batches, 50)
    batches.close()


def test_rotated_files_are_upright(tmp_path):
    frames = scene(2, 6, 64, 64)
    write_video(tmp_path / "turned.mp4", frames)
    data = bytearray((tmp_path / "turned.mp4").read_bytes())
    identity = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    quarter = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 64 << 16, 0, 1 << 30], ">i4").tobytes()
    place = data.index(identity, data.index(b"tkhd"))
    data[place : place + 36] = quarter
    (tmp_path / "turned.mp4").write_bytes(data)
    plain = {"num_frames": 6, "frame_interval": 1, "height": 64, "width": 64, "flip_probability": 0.0}
    batch = next(loader(tmp_path, batch_size=1, recipe="none", **plain))
    upright = np.rot90(frames, -1, (1, 2))
    assert np.abs(batch["gt"][0].astype(int) - upright).mean() < 8


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no videos"):
        loader(tmp_path)


def test_memory_bound_is_stated():
    config = DataConfig("synthetic", num_workers=8)
    assert config.element_bytes == 32 * 720 * 1280 * 3 * 17 // 16
    assert config.buffered_bytes == 8 * 3 * config.element_bytes


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"caption_dropout": 50}, "data.caption_dropout is 50; choose 0 to 1"),
        ({"flip_probability": -0.5}, "data.flip_probability is -0.5"),
        ({"max_bad_share": 9}, "data.max_bad_share is 9"),
        ({"max_upscale": 0}, "data.max_upscale is 0; it must be positive"),
        ({"num_epochs": 0}, "data.num_epochs is 0; choose 1 or more"),
        ({"num_frames": 0}, "data.num_frames is 0; it must be at least 1"),
        ({"seed": -1}, "data.seed is -1; it must not be negative"),
        ({"height": 722}, "both must be multiples of 4"),
    ],
)
def test_values_out_of_range_are_named(setting, message):
    with pytest.raises(InputError, match=re.escape(message)):
        DataConfig("synthetic", **setting)
