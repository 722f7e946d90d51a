"""Trains the toy task in a process that ends early: train_toy.py WORKDIR HOW, HOW one of

kill          SIGKILL once the checkpoint of step 3 is on disk
kill-in-save  SIGKILL while that checkpoint is being written
"""

import os
import signal
import sys
import threading
from pathlib import Path

from toy_training import ToyObjective, toy_config

from star_jax.train.checkpoints import TrainCheckpoints
from star_jax.train.loop import train

LAST_STEP = 3


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(workdir: str, how: str) -> None:
    save = TrainCheckpoints.save

    def save_and_die(checkpoints, state, batches, meta):
        if int(state.step) == LAST_STEP and how == "kill-in-save":
            threading.Thread(target=die_in_save, args=(Path(workdir),), daemon=True).start()
        save(checkpoints, state, batches, meta)
        if int(state.step) == LAST_STEP:
            checkpoints.wait()
            die()

    TrainCheckpoints.save = save_and_die
    train(ToyObjective(), toy_config(), workdir, quiet=True)


def die_in_save(workdir: Path) -> None:
    while not list((workdir / "checkpoints").glob(f"{LAST_STEP}.*tmp*")):
        pass
    die()


if __name__ == "__main__":
    main(*sys.argv[1:])
