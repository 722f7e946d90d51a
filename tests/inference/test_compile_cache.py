"""The compile cache: what one process leaves the next finds, and what a killed one leaves is removed."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from star_jax.errors import InputError
from star_jax.inference import compile_cache
from star_jax.inference.compile_cache import use_compile_cache

PROGRAM = """
import os, signal, sys
import jax
import jax.numpy as jnp
from star_jax.inference import compile_cache

compile_cache._SHORTEST_SECONDS = 0
if sys.argv[2] == "gpu":  # XLA takes the flag, and programs keep their keys
    compile_cache._NVIDIA = compile_cache.Path("/")
compile_cache.use_compile_cache(sys.argv[1])
hits = []
jax.monitoring.register_event_listener(lambda event, **_: event.endswith("/cache_hits") and hits.append(event))
jax.jit(lambda x: jnp.tanh(x @ x).sum())(jnp.ones((8, 8))).block_until_ready()
print(len(hits))
if sys.argv[2] == "killed":
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run(cache: Path, how: str = "whole") -> int:
    """Hits in the cache of a process of its own."""
    command = [sys.executable, "-c", PROGRAM, str(cache), how]
    done = subprocess.run(command, capture_output=True, text=True, check=how == "whole")
    return int(done.stdout)


def test_the_next_start_compiles_nothing(tmp_path):
    cache = tmp_path / "new" / "cache"
    assert run(cache) == 0
    programs = sorted(cache.iterdir())
    assert programs and all(program.name.endswith("-cache") for program in programs)
    assert run(cache) == len(programs)
    assert sorted(cache.iterdir()) == programs


def test_autotuning_is_kept_in_one_folder_for_all_processes(tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert run(tmp_path, "gpu") == 0
    assert (tmp_path / compile_cache.AUTOTUNING).is_dir()
    assert run(tmp_path, "gpu") > 0


@pytest.mark.parametrize(
    ("folder", "before", "after"),
    [
        ("cache", None, "--xla_gpu_per_fusion_autotune_cache_dir={}"),
        ("cache", "--xla_dump_to=", "--xla_dump_to= --xla_gpu_per_fusion_autotune_cache_dir={}"),
        ("a cache", "", ""),
        (
            "cache",
            "--xla_gpu_per_fusion_autotune_cache_dir=mine",
            "--xla_gpu_per_fusion_autotune_cache_dir=mine",
        ),
    ],
)
def test_the_flag_for_autotuning(tmp_path, monkeypatch, folder, before, after):
    monkeypatch.setattr(compile_cache, "_NVIDIA", tmp_path)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if before is not None:
        monkeypatch.setenv("XLA_FLAGS", before)
    compile_cache._keep_autotuning(tmp_path / folder)
    assert os.environ["XLA_FLAGS"] == after.format(tmp_path / folder)


def test_a_killed_process_leaves_no_half_program(tmp_path):
    assert run(tmp_path, "killed") == 0
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".session.")
    assert run(tmp_path) == 0
    assert not left.exists()
    assert all(program.name.endswith("-cache") for program in tmp_path.iterdir())


def test_an_unusable_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another --compile-cache, or ''"):
        use_compile_cache(tmp_path / "file")
    with pytest.raises(InputError, match="choose another --compile-cache"):
        use_compile_cache(os.devnull)


def test_a_home_that_cannot_be_written_costs_the_cache_only(monkeypatch, caplog):
    monkeypatch.setattr(compile_cache, "DEFAULT_CACHE", "/proc/nope/.cache/star_jax")
    use_compile_cache(None)
    assert "cannot keep compiled programs in /proc/nope" in caplog.text
    with pytest.raises(InputError, match="cannot keep compiled programs in /proc/nope"):
        use_compile_cache("/proc/nope/.cache/star_jax")


def test_another_machine_s_session_in_a_shared_home_stays(tmp_path):
    theirs = [tmp_path / f".session.{name}.999999999" for name in ("other", f"{platform.node()}.local")]
    ours = tmp_path / f".session.{platform.node()}.999999999"
    for session in (*theirs, ours):
        session.mkdir()
    assert run(tmp_path) == 0
    assert all(session.is_dir() for session in theirs) and not ours.exists()
