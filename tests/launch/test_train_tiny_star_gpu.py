"""The script that trains tiny-star's decoder on a lent GPU: its pack, its files, and that it goes on from them."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "launch/train_tiny_star_gpu.sh"

# In place of star-jax: a run whose newest checkpoint is one more than the last, until it is told to stop. It ends
# what it has begun to write.
STAND_IN = """#!/usr/bin/env bash
workdir= told=
trap told=1 TERM
while [[ $# -gt 0 ]]; do [[ $1 == --workdir ]] && workdir=$2; shift; done
mkdir -p "$workdir/checkpoints"
newest=$(ls "$workdir/checkpoints" | sort -n | tail -n 1)
mkdir "$workdir/checkpoints/$((${newest:-0} + 1))"
head -c 20000000 /dev/urandom >"$workdir/checkpoints/$((${newest:-0} + 1))/weights"
[[ $told ]] || { sleep 60 & wait; }
exit 143
"""


def run(*arguments, **environment):
    return subprocess.run(
        ["bash", SCRIPT, *map(str, arguments)],
        env=os.environ | {name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_pack_has_photographs_and_networks(tmp_path):
    for folder in ("photographs", "weights"):
        (tmp_path / folder).mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "photographs/a.png"), picture)
    for name in ("alexnet", "lpips_alex", "vgg16"):
        (tmp_path / f"weights/{name}.safetensors").write_bytes(b"x")
    arguments = (tmp_path / "pack", tmp_path / "photographs", tmp_path / "weights")
    assert run("pack", *arguments, PYTHON=sys.executable).returncode == 0
    files = sorted(str(path.relative_to(tmp_path / "pack")) for path in (tmp_path / "pack").rglob("*.*"))
    assert files == ["photographs/a.jpg", "weights/alexnet.safetensors", "weights/lpips_alex.safetensors"]


@pytest.mark.parametrize("arguments", [(), ("train", "pack"), ("unknown", "a", "b")])
def test_it_says_how_it_is_used(arguments):
    result = run(*arguments)
    assert result.returncode == 2
    assert "launch/train_tiny_star_gpu.sh train PACK OUT" in result.stdout


def test_its_files_are_the_newest_checkpoint_and_it_goes_on_from_them(tmp_path):
    command = tmp_path / "star-jax"
    command.write_text(STAND_IN)
    command.chmod(0o755)
    (tmp_path / "pack").mkdir()
    settings = {
        "STAR_JAX": command,
        "SECONDS_IN_ALL": 4,
        "DECAY_SECONDS": 2,
        "PAUSE_FILE": tmp_path / "groups",
    }
    for machine, newest in (("first", "2"), ("second", "4")):
        result = run("train", tmp_path / "pack", tmp_path / "out", WORK=tmp_path / machine, **settings)
        assert result.returncode == 0, result.stderr
        parts = sorted((tmp_path / "out").glob("state.*"))
        assert [part.name for part in parts] == ["state.00", "state.01"]
        assert max(part.stat().st_size for part in parts) < 16e6
        (tmp_path / "whole.tar").write_bytes(b"".join(part.read_bytes() for part in parts))
        with tarfile.open(tmp_path / "whole.tar") as archive:
            kept = archive.extractfile(f"{newest}/weights").read()
        assert kept == (tmp_path / machine / "run/checkpoints" / newest / "weights").read_bytes()
    assert len((tmp_path / "groups").read_text().split()) == 4
