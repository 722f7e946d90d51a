"""Kills `star-jax upscale` at random moments, goes on, and compares with a run that was not killed.

    python tests/kill_drill.py [KILLS] [SEED]

The run has windows, tiles, two scenes and sound, in the small model of the package. It is killed (SIGKILL) KILLS
times in all, each at a random moment of what an undisturbed run takes; after three kills it is left to finish.
Every file that comes out must be bit-identical to the undisturbed one's, with nothing else left beside it.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sample_frames import moving_clip
from sample_videos import moving_frames, write_video

OPTIONS = [
    "--scale",
    "4",
    "--steps",
    "3",
    "--window",
    "8",
    "--tile",
    "144x128",
    "--vae-tile",
    "144x128",
    "--quiet",
]
KILLS_IN_A_ROW = 3


def start(clip: Path, output: Path, cache: Path) -> subprocess.Popen:
    """Starts the command, as a user would."""
    command = [sys.executable, "-m", "star_jax.launch.cli", "upscale", clip, "-o", output, *OPTIONS]
    return subprocess.Popen([*map(str, command), "--compile-cache", str(cache)])


def main(kills: int = 20, seed: int = 0) -> None:
    """Runs the drill, and prints what it found."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder), Path(folder) / "cache"
        frames = np.concatenate([moving_clip(14, 48, 64), moving_frames(10, 64, 48)])
        clip = write_video(root / "clip.mp4", frames, audio="aac")
        (root / "out").mkdir()
        assert start(clip, root / "whole.mp4", cache).wait() == 0  # fills the compile cache
        began = time.monotonic()
        assert start(clip, root / "whole.mp4", cache).wait() == 0
        seconds = time.monotonic() - began
        print(f"undisturbed: {seconds:.0f} s, {(root / 'whole.mp4').stat().st_size} bytes", flush=True)
        killed = finished = resumed = 0
        while killed < kills:
            output = root / "out" / f"{finished}.mp4"
            for _ in range(min(KILLS_IN_A_ROW, kills - killed)):
                process = start(clip, output, cache)
                time.sleep(rng.uniform(0.2, 1) * seconds)
                if process.poll() is not None:
                    break
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
                kept = sorted(path.name for path in (root / "out").glob(".*.star-jax/*.npz"))
                resumed += bool(kept)
                print(f"killed {killed}: kept {', '.join(kept) or 'nothing'}", flush=True)
            assert output.exists() or start(clip, output, cache).wait() == 0
            assert output.read_bytes() == (root / "whole.mp4").read_bytes(), "another file"
            finished += 1
            assert sorted(os.listdir(root / "out")) == sorted(f"{i}.mp4" for i in range(finished)), (
                "left over"
            )
        print(
            f"{killed} kills, {resumed} with something kept, {finished} files, all bit-identical, nothing left over"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
