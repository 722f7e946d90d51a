"""Files that are damaged, hostile or interrupted: one clear line, and never a directory that looks complete."""

import contextlib
import os
import pickle
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from convert_samples import SMALL, family_state, save_state

from star_jax.checkpoints.directory import component_metadata, iterate_leaves
from star_jax.convert.converter import convert_checkpoint
from star_jax.convert.exporter import export_checkpoint
from star_jax.convert.sources import sha256
from star_jax.errors import InputError, RunError, StarError
from star_jax.init.random_checkpoint import random_checkpoint


def convert(source, directory, **kwargs):
    return convert_checkpoint([source], directory, preset=SMALL, **kwargs)


def all_leaves(directory, name: str = "text_encoder") -> dict[str, np.ndarray]:
    return dict(iterate_leaves(directory, name, list(component_metadata(directory, name))))


@pytest.fixture(scope="module")
def state():
    return family_state("clip")


@pytest.fixture(scope="module")
def expected(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("whole")
    convert(save_state(folder / "clip.pt", state), folder / "made")
    return all_leaves(folder / "made")


def mutate(data: bytes, rng: np.random.Generator, window: tuple[int, int]) -> bytes:
    """Cuts the file, or changes one to three bytes within `window`."""
    if rng.random() < 0.25:
        return data[: rng.integers(0, len(data))]
    changed = bytearray(data)
    for position in rng.integers(*window, size=rng.integers(1, 4)):
        changed[position] ^= rng.integers(1, 256)
    return bytes(changed)


@pytest.mark.parametrize("kind", ["pt", "pt-directory", "safetensors", "safetensors-data"])
def test_fuzz(tmp_path, state, expected, kind):
    """50 damaged files of each kind: refused, or (bytes that mean nothing) converted as if they were whole."""
    source = tmp_path / f"clip.{kind.split('-')[0]}"
    if kind.startswith("pt"):
        save_state(source, state)
    else:
        safetensors.torch.save_file(state, source)
    data = source.read_bytes()
    header = struct.unpack("<Q", data[:8])[0] + 8 if kind.startswith("safetensors") else 0
    window = {
        "pt": (0, len(data)),
        "pt-directory": (len(data) - 12_000, len(data)),
        "safetensors": (0, header),
        "safetensors-data": (header, len(data)),
    }[kind]
    # safetensors has no checksums: damage to its numbers shows by the digest of the whole file.
    digest = [sha256(source)] if kind == "safetensors-data" else []
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(50):
        source.write_bytes(mutate(data, rng, window))
        try:
            convert(source, tmp_path / "made", expected_sha256=digest)
        except StarError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 600
            assert os.listdir(tmp_path) == [source.name]
        else:
            made = all_leaves(tmp_path / "made")
            assert all(np.array_equal(made[path], leaf) for path, leaf in expected.items())
            shutil.rmtree(tmp_path / "made")
    assert refused >= (50 if digest else 25)


def test_files_that_are_something_else(tmp_path, state):
    whole = save_state(tmp_path / "whole.pt", state).read_bytes()
    torch.save(state, tmp_path / "cut.pt", _use_new_zipfile_serialization=False)
    legacy = (tmp_path / "cut.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("a.txt", "hello")
    save_state(tmp_path / "list.pt", [torch.ones(2)])
    save_state(tmp_path / "other.pt", {"conv.weight": torch.ones(2)})
    save_state(tmp_path / "numbers.pt", {"epoch": 3})
    for name, data, words in (
        ("empty.pt", b"", "is empty"),
        ("half.pt", whole[: len(whole) // 2], "is not a complete PyTorch file"),
        ("text.safetensors", b"hello, I am no model", "is not a complete safetensors file"),
        ("page.bin", b"<!DOCTYPE html><html>404</html>", "neither safetensors nor a PyTorch file"),
        (
            "lfs.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 8\n",
            "git lfs pull",
        ),
        ("bare.pt", pickle.dumps({"epoch": 3}), "plain pickle"),
        ("cut.pt", legacy[:-1], "is truncated"),
        ("start.pt", legacy[:1000], "is not a complete PyTorch file"),
        ("longer.pt", legacy + b"x", "bytes follow the last storage"),
        ("zip.pt", None, "it has no data.pkl"),
        ("list.pt", None, "does not hold a state dict"),
        ("other.pt", None, "is of no known family"),
        ("numbers.pt", None, "holds no tensors"),
    ):
        source = tmp_path / name
        if data is not None:
            source.write_bytes(data)
        with pytest.raises(InputError, match=words):
            convert(source, tmp_path / "made")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="holds no weights"):
        convert(tmp_path / "folder", tmp_path / "made")
    for name in ("a.pt", "b.pt"):
        (tmp_path / "folder" / name).write_bytes(whole)
    with pytest.raises(InputError, match=r"several files of weights \(a\.pt, b\.pt\)"):
        convert(tmp_path / "folder", tmp_path / "made")
    assert not (tmp_path / "made").exists()


class Payload:
    """Unpickles by calling a function."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def hostile(marker: Path) -> dict[str, object]:
    code = f"open({str(marker)!r}, 'w').write('ran')"
    return {
        "system": Payload(os.system, f"touch {marker}"),
        "exec": Payload(exec, code),
        "eval in a list": [1, [Payload(eval, code)]],
        "method": Payload(Path.touch, marker),
    }


@pytest.mark.parametrize("name", ["system", "exec", "eval in a list", "method"])
@pytest.mark.parametrize("place", ["tensor", "beside", "nested"])
def test_pickles_that_would_run_code(tmp_path, state, name, place):
    marker = tmp_path / "marker"
    payload = hostile(marker)[name]
    content = {
        "tensor": {**state, "encoder.layers.0.mlp.fc1.weight": payload},
        "beside": {"state_dict": state, "step": payload},
        "nested": {"state_dict": {**state, "x": payload}},
    }[place]
    source = save_state(tmp_path / "model.pt", content)
    with pytest.raises(InputError, match=r"model\.pt is refused: it would load .*; only load files from"):
        convert(source, tmp_path / "made")
    assert not marker.exists() and not (tmp_path / "made").exists()
    pickle.loads(pickle.dumps(payload))  # the payload is real: Python's own unpickler runs it
    assert marker.exists()


def repickle(source: Path, change) -> None:
    """Replaces the pickle of a .pt file."""
    with zipfile.ZipFile(source) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(source, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, change(data) if name.endswith("data.pkl") else data)


def test_pickles_that_change_the_reader_or_take_memory(tmp_path, state):
    source = tmp_path / "model.pt"
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    for pickled in (
        b"\x80\x02" + rebuild + b"}X\x05\x00\x00\x00_callX\x01\x00\x00\x00xsb.",  # BUILD with a dict
        b"\x80\x02" + rebuild + b"N}X\x05\x00\x00\x00_callX\x01\x00\x00\x00xs\x86b.",  # BUILD with slots
        b"\x80\x02}r\xff\xff\xff\x7f.",  # memo index 2^31: sixteen gigabytes of table
        b"\x80\x04\x96\xff\xff\xff\xff\xff\x00\x00\x00.",  # a byte array of a terabyte
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"",
    ):
        save_state(source, state)
        repickle(source, lambda _, pickled=pickled: pickled)
        with pytest.raises(InputError, match=r"model\.pt"):
            convert(source, tmp_path / "made")
    save_state(source, state)  # a tensor that reaches beyond its storage
    repickle(source, lambda data: data.replace(b"M\x02\x02K ", b"M\x03\x02K ", 1))
    with pytest.raises(InputError, match="reaches beyond its storage"):
        convert(source, tmp_path / "made")


@contextlib.contextmanager
def file_size_limit(size: int):
    """The system refuses to let any file grow beyond `size`, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk(tmp_path):
    source = save_state(tmp_path / "vae.pt", family_state("svd-vae"))
    with file_size_limit(200_000), pytest.raises(RunError, match=r"cannot write .*; free disk space"):
        convert(source, tmp_path / "made")
    assert os.listdir(tmp_path) == ["vae.pt"]
    convert(source, tmp_path / "made")
    for name in ("back.pt", "back.safetensors", "folder"):
        with file_size_limit(200_000), pytest.raises(RunError, match=r"cannot write .*; free disk space"):
            export_checkpoint(tmp_path / "made", tmp_path / name, layout="svd-vae")
    with file_size_limit(200_000), pytest.raises(RunError, match="cannot write"):
        random_checkpoint(tmp_path / "random", SMALL)
    assert sorted(os.listdir(tmp_path)) == ["made", "vae.pt"]


# A shell's background jobs ignore Ctrl-C, and so would what the tests start from one.
SLOW_CONVERSION = """
import signal, sys, time
from pathlib import Path
from star_jax.convert.tensors import FileTensor
from star_jax.launch.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
read = FileTensor.read
def slowly(self):
    Path(sys.argv[3]).touch()
    time.sleep(0.2)
    return read(self)
FileTensor.read = slowly
sys.exit(main(["convert", sys.argv[1], sys.argv[2], "--preset", sys.argv[4]]))
"""


def test_interrupted_conversions_leave_nothing(tmp_path, state):
    source = save_state(tmp_path / "clip.pt", state)
    sizes = tmp_path / "sizes.json"
    sizes.write_text(SMALL.to_json())
    signals = {"terminated": signal.SIGTERM, "interrupted": signal.SIGINT, "killed": signal.SIGKILL}
    running = {}
    for name in signals:
        (tmp_path / name).mkdir()
        argv = [str(source), str(tmp_path / name / "made"), str(tmp_path / f"{name}.started"), str(sizes)]
        running[name] = subprocess.Popen(
            [sys.executable, "-c", SLOW_CONVERSION, *argv], stderr=subprocess.PIPE, text=True
        )
    for name, number in signals.items():
        while not (tmp_path / f"{name}.started").exists():
            assert running[name].poll() is None, running[name].stderr.read()
            time.sleep(0.05)
        running[name].send_signal(number)
    for name, process in running.items():
        _, error = process.communicate(timeout=60)
        assert not (tmp_path / name / "made").exists()
        if name == "killed":
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 130 and "interrupted; nothing was left half-written" in error
            assert os.listdir(tmp_path / name) == []
    convert(source, tmp_path / "killed" / "made")  # clears what the killed one could not
    assert os.listdir(tmp_path / "killed") == ["made"]
