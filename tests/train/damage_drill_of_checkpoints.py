"""Damages every file of a training checkpoint in every way, goes on, and compares with a run that was not damaged.

    python tests/train/damage_drill_of_checkpoints.py

Each file of the newest checkpoint of a toy is removed, emptied, cut in half, zeroed, overwritten with random bytes,
given one flipped bit, and replaced by the file of the checkpoint before; each folder is removed. The run must go on
to the same numbers, bit by bit: from the damaged checkpoint where the file says nothing that matters, else from the
one before, with a line that names the damaged one, which is moved aside.
"""

import json
import os
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
from saved_state import saved_state
from toy_training import ToyObjective, toy_config

from star_jax.train.loop import train
from star_jax.train.speed import MEASURED

STEPS = 4
CONFIG = toy_config(num_steps=STEPS, log_every_steps=1, keep_checkpoints=2)


def flipped(data: bytes, rng: random.Random) -> bytes:
    """One bit of it changed."""
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


WAYS = {
    "emptied": lambda data, rng: b"",
    "cut": lambda data, rng: data[: len(data) // 2],
    "zeroed": lambda data, rng: bytes(len(data)),
    "overwritten": lambda data, rng: rng.randbytes(len(data)),
    "flipped": flipped,
}


def outcome(root: Path) -> tuple[list[dict], object]:
    """Metrics, and the whole state at the end."""
    lines = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    kept = [{name: value for name, value in line.items() if name not in MEASURED} for line in lines]
    return kept, jax.device_get(saved_state(root, STEPS, ToyObjective(), CONFIG.optimizer, CONFIG.train))


def damaged_copies(whole: Path, place: Path, rng: random.Random):
    """Yields (what was done, name), with a copy of the run at `place` to which it was done."""

    def copy() -> Path:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(whole, place)
        return place / "checkpoints" / str(STEPS)

    newest = whole / "checkpoints" / str(STEPS)
    for path in sorted(newest.rglob("*")):
        name = path.relative_to(newest)
        if path.is_dir():
            shutil.rmtree(copy() / name)
            yield "removed", name
            continue
        (copy() / name).unlink()
        yield "removed", name
        for how, change in WAYS.items():
            data = path.read_bytes()
            if data:
                (copy() / name).write_bytes(change(data, rng))
                yield how, name
        before = whole / "checkpoints" / str(STEPS - 1) / name
        if before.exists():
            shutil.copy(before, copy() / name)
            yield "of another step", name


def main() -> None:
    """Runs the drill, and prints what it found."""
    rng, root = random.Random(0), Path(tempfile.mkdtemp())
    found: Counter[str] = Counter()
    try:
        train(ToyObjective(), CONFIG, root / "whole", quiet=True)
        metrics, state = outcome(root / "whole")
        for how, name in damaged_copies(root / "whole", root / "run", rng):
            try:
                assert train(ToyObjective(), CONFIG, root / "run", quiet=True).finished
                after, numbers = outcome(root / "run")
                assert after == metrics
                jax.tree.map(np.testing.assert_array_equal, numbers, state)
            except Exception as error:
                found["WRONG"] += 1
                print(
                    f"WRONG: {name} {how}: {type(error).__name__}: {str(error).splitlines()[0]}", flush=True
                )
                continue
            aside = (root / "run" / "damaged" / str(STEPS)).exists()
            found["from the one before" if aside else "from itself"] += 1
            print(f"{name} {how}: {'set aside' if aside else 'no harm'}", flush=True)
    finally:
        shutil.rmtree(root)
    print(f"{sum(found.values())} damages: {dict(found)}")


if __name__ == "__main__":
    main()
