"""What is kept of a long run: whole or not there, of the same job or not used, one run at a time."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from star_jax.errors import DiskError, InputError, RunError
from star_jax.files import draft_path, work_folder_path
from star_jax.inference.resume import NOTHING_KEPT, Kept, check_not_running, file_stamp, work_folder

JOB = {"settings": {"seed": 0}, "inputs": ["a.mp4", 12]}


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "out.mp4"


def interrupted(output: Path, **arrays: np.ndarray) -> None:
    with pytest.raises(KeyboardInterrupt), work_folder(output, JOB, resume=True) as kept:
        for name, array in arrays.items():
            kept.save(name, array)
        raise KeyboardInterrupt


def test_an_interrupted_job_finds_what_it_kept_and_a_finished_one_leaves_nothing(output, tmp_path):
    latents = np.random.default_rng(0).normal(size=(1, 3, 4, 5, 4)).astype(np.float32)
    interrupted(output, latents=latents)
    with work_folder(output, JOB, resume=True) as kept:
        np.testing.assert_array_equal(kept.load("latents"), latents)
        assert kept.load("other") is None
        kept.drop("latents")
        assert not kept.has("latents")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_frames_come_back_bit_for_bit(tmp_path, channels, dtype):
    frames = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (11, 6, 5, channels)).astype(dtype)
    Kept(tmp_path).part("0").save_frames("frames", frames)
    found = Kept(tmp_path).part("0").load("frames")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, frames)
    Kept(tmp_path, with_frames=False).save_frames("other", frames)
    assert not Kept(tmp_path).has("other")


def test_another_job_or_no_resume_begins_anew(output):
    for arguments in ((JOB | {"settings": {"seed": 1}}, True), (JOB, False)):
        interrupted(output, latents=np.ones(3))
        with work_folder(output, arguments[0], resume=arguments[1]) as kept:
            assert kept.load("latents") is None
            kept.save("latents", np.zeros(3))
            assert kept.has("latents") == arguments[1]


@pytest.mark.parametrize("damage", ["cut off", "flipped", "empty"])
def test_a_damaged_file_counts_as_not_there(output, damage):
    interrupted(output, latents=np.arange(1000.0))
    (path,) = work_folder_path(output).glob("*.npz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"cut off": data[:-200], "flipped": data, "empty": b""}[damage])
    with work_folder(output, JOB, resume=True) as kept:
        assert kept.load("latents") is None and not path.exists()


@pytest.mark.parametrize("error", [InputError("bad"), RunError("not finite")])
def test_an_error_that_would_come_again_leaves_nothing(output, tmp_path, error):
    with pytest.raises(type(error)), work_folder(output, JOB, resume=True) as kept:
        kept.save("latents", np.ones(3))
        raise error
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_and_costs_nothing_that_was_done(output, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskError, match="No space left on device; free disk space"):  # noqa: SIM117
        with work_folder(output, JOB, resume=True) as kept:
            kept.save("hint", np.ones(3))
            monkeypatch.setattr(np, "savez", full)
            kept.save("latents", np.ones(3))
    monkeypatch.undo()
    with work_folder(output, JOB, resume=True) as kept:
        assert kept.has("hint") and not kept.has("latents")


def test_drafts_of_a_killed_run_are_removed(output):
    interrupted(output, latents=np.ones(3))
    draft = draft_path(output)
    assert draft.parent == work_folder_path(output) and draft != draft_path(output)
    draft.write_bytes(b"half a video")
    with pytest.raises(KeyboardInterrupt), work_folder(output, JOB, resume=True):
        assert not draft.exists()
        raise KeyboardInterrupt
    assert draft_path(output.with_name("other.mp4")).parent == output.parent


def test_one_run_at_a_time_and_a_killed_one_holds_nothing(output):
    code = (
        "import sys, time; from pathlib import Path; from star_jax.inference.resume import work_folder\n"
        "with work_folder(Path(sys.argv[1]), {}, resume=True):\n    print('in', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, output], stdout=subprocess.PIPE)
    other.stdout.readline()
    with pytest.raises(InputError, match="is being written by another run"):
        check_not_running(output)
    with (
        pytest.raises(InputError, match="is being written by another run"),
        work_folder(output, JOB, resume=True),
    ):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    check_not_running(output)
    with work_folder(output, JOB, resume=True):
        pass
    check_not_running(output)


def test_names_of_any_length_and_links(tmp_path):
    long = tmp_path / ("n" * 251 + ".mp4")
    with work_folder(long, JOB, resume=True) as kept:
        kept.save("latents", np.ones(3))
        draft_path(long).touch()
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "disk" / "real.mp4")
    assert draft_path(tmp_path / "link.mp4").parent == tmp_path / "disk"


def test_a_stamp_changes_with_the_files(tmp_path):
    (tmp_path / "a").write_text("1")
    before = file_stamp(tmp_path)
    assert file_stamp(tmp_path) == before and file_stamp(tmp_path / "a") == before
    (tmp_path / "a").write_text("12")
    assert file_stamp(tmp_path) != before


def test_without_a_folder_nothing_is_kept():
    NOTHING_KEPT.save("latents", np.ones(3))
    assert NOTHING_KEPT.part("0").load("latents") is None and not NOTHING_KEPT.has("latents")


def test_where_no_folder_can_be_made(output, monkeypatch):
    """As in /proc, which exists and says that it does not."""

    def refuse(*arguments, **options):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match="cannot create a folder in"), work_folder(output, JOB, resume=True):
        pass
