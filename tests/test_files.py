"""Files and folders that appear when they are complete, and sizes as text."""

import os
import platform
import subprocess
import sys

import pytest

from star_jax.errors import InputError, RunError
from star_jax.files import appearing, bytes_text, parse_bytes, process_name, write_json

GIB = 2**30


def test_a_file_appears_at_the_end_and_keeps_its_suffix(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_text("old")
    with appearing(path) as partial:
        partial.write_text("new")
        assert partial.suffix == ".mp4" and path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["clip.mp4"]


def test_a_folder_takes_the_place_of_another(tmp_path):
    path = tmp_path / "folder"
    for name in ("first", "second"):
        with appearing(path) as partial:
            partial.mkdir()
            (partial / name).touch()
    assert os.listdir(path) == ["second"] and os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_interrupt_leaves_what_was_there(tmp_path, kind):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), appearing(path) as partial:
        partial.touch() if kind == "file" else partial.mkdir()
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    program = """
import os, signal, sys
from star_jax.files import appearing
with appearing(sys.argv[1]) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "[x].json"  # not a pattern
    subprocess.run([sys.executable, "-c", program, path], check=False)
    (left,) = os.listdir(tmp_path)
    assert left.startswith(f".partial.{platform.node()}.") and left.endswith(path.name)
    elsewhere = tmp_path / f".partial.elsewhere.1.{path.name}"  # perhaps of a process that still lives there
    elsewhere.touch()
    alive = tmp_path / process_name("partial", path.name).replace(str(os.getpid()), str(os.getppid()))
    alive.touch()
    write_json(path, {})
    assert {*os.listdir(tmp_path)} == {path.name, elsewhere.name, alive.name}


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(RunError, match=r"cannot write .*x\.json: No such file.*check the folder"):
        write_json(tmp_path / "no" / "x.json", {})


def test_sizes():
    texts = ("12GiB", "12G", "1.5gb", "800M", "4096")
    sizes = [12 * GIB, 12 * GIB, int(1.5 * GIB), 800 * 2**20, 4096]
    assert [parse_bytes(text, "--max-memory") for text in texts] == sizes
    for text in ("", "much", "-1G", "0", "nanG", "12X"):
        with pytest.raises(InputError, match=r"--max-memory is .*give a size such as 12GiB"):
            parse_bytes(text, "--max-memory")
    assert [bytes_text(size) for size in sizes] == ["12 GiB", "12 GiB", "1.5 GiB", "800 MiB", "0 MiB"]
    assert bytes_text(4096, up=True) == "0.01 MiB"
