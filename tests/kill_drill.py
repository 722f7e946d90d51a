"""Kills `star-jax upscale` at random moments, goes on, and compares with a run that was not killed.

    python tests/kill_drill.py [KILLS] [SEED] [CHECKPOINT]

The run has windows, tiles, two scenes and sound, in the small model of the package or, with the checkpoint `toy`,
in the tests' smallest one. It is killed (SIGKILL) KILLS times in all, each at a random moment of what a whole
run takes once it has begun to write; after three kills it is left to finish. Every file that comes out must be
bit-identical to the one of the run that was not killed, with nothing else left beside it.
"""

import atexit
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import toy_architecture  # noqa: F401 (registers it)
from sample_frames import moving_clip
from sample_videos import moving_frames, write_video

from star_jax.files import work_folder_path
from star_jax.launch.cli import main as command

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


class Run:
    """The command in a process of its own."""

    def __init__(self, clip: Path, output: Path, checkpoint: str):
        self.output = output
        self.pid = os.fork()
        if self.pid == 0:
            cache = output.parents[1] / "cache"
            arguments = [clip, "-o", output, "--checkpoint", checkpoint, "--compile-cache", cache, *OPTIONS]
            code = command(["upscale", *map(str, arguments)])
            atexit._run_exitfuncs()  # which keep the compiled programs
            os._exit(code)

    def begins(self) -> float:
        """Waits until it has begun to write; returns the time."""
        while not self.is_over() and not work_folder_path(self.output).exists():
            time.sleep(0.01)
        return time.monotonic()

    def is_over(self) -> bool:
        """Whether it has ended by itself, which must be a good end."""
        ended, status = os.waitpid(self.pid, os.WNOHANG) if self.pid else (0, 0)
        assert status == 0
        if ended:
            self.pid = 0
        return self.pid == 0

    def wait(self) -> None:
        """Waits for its end, which must be a good one."""
        if self.pid:
            assert os.waitpid(self.pid, 0)[1] == 0
            self.pid = 0

    def kill(self) -> None:
        """Ends it as a power failure would."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def main(kills: int, seed: int, checkpoint: str) -> None:
    """Runs the drill, and prints what it found."""
    rng = random.Random(seed)
    root = Path(tempfile.mkdtemp())  # no context manager: the forks run what is registered for the exit
    try:
        for name in ("whole", "out"):
            (root / name).mkdir()
        frames = np.concatenate([moving_clip(14, 48, 64), moving_frames(10, 64, 48)])
        clip = write_video(root / "clip.mp4", frames, audio="aac")
        if checkpoint == "toy":
            checkpoint = str(root / "toy")
            run_alone(lambda: command(["convert", "random:toy", checkpoint]))
        whole = root / "whole" / "0.mp4"
        Run(clip, whole, checkpoint).wait()  # fills the compile cache
        run = Run(clip, whole.with_name("1.mp4"), checkpoint)
        began = run.begins()
        run.wait()
        seconds = time.monotonic() - began
        print(f"undisturbed: {seconds:.1f} s, {whole.stat().st_size} bytes", flush=True)
        killed = resumed = finished = 0
        while killed < kills:
            output = root / "out" / f"{finished}.mp4"
            for _ in range(min(KILLS_IN_A_ROW, kills - killed)):
                run = Run(clip, output, checkpoint)
                run.begins()
                time.sleep(rng.uniform(0, seconds))
                if run.is_over():
                    break
                run.kill()
                killed += 1
                kept = sorted(path.name for path in work_folder_path(output).glob("*.npz"))
                resumed += bool(kept)
                print(f"killed {killed}: kept {', '.join(kept) or 'nothing'}", flush=True)
            if run.pid:  # the last one was killed, if only while it tidied up
                Run(clip, output, checkpoint).wait()
            assert output.read_bytes() == whole.read_bytes(), f"{output.name} is another file"
            finished += 1
            left = sorted(os.listdir(root / "out"))
            assert left == sorted(f"{number}.mp4" for number in range(finished)), left
        print(
            f"{killed} kills, {resumed} with something kept, {finished} files: bit-identical, nothing left over"
        )
    finally:
        shutil.rmtree(root)


def run_alone(work) -> None:
    """Runs something in a process of its own, so that this one never starts a device."""
    if (pid := os.fork()) == 0:
        os._exit(work() or 0)
    assert os.waitpid(pid, 0)[1] == 0


if __name__ == "__main__":
    given = dict(zip(("kills", "seed", "checkpoint"), sys.argv[1:], strict=False))
    main(int(given.get("kills", 20)), int(given.get("seed", 0)), given.get("checkpoint", "tiny-star"))
