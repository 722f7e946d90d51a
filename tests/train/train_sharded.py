"""Trains the toy task for one step on simulated devices: train_sharded.py FOLDER MESHES [COORDINATOR INDEX]

MESHES is JSON: [[data, fsdp, context], ...]; each gets a work directory in FOLDER. With a coordinator, this is one
of two processes, which first make a checkpoint of fresh weights, FOLDER/fresh.
"""

import json
import sys
from pathlib import Path

import jax
from one_level import ONE_LEVEL
from toy_training import ToyObjective, toy_config

from star_jax.init.checkpoint import fresh_checkpoint
from star_jax.parallel.mesh import MeshConfig
from star_jax.train.loop import train


def main(folder: str, meshes: str, coordinator: str | None = None, index: str | None = None) -> None:
    if coordinator:
        jax.distributed.initialize(coordinator, num_processes=2, process_id=int(index))
        fresh_checkpoint(Path(folder) / "fresh", ONE_LEVEL, seed=0)
    for sizes in json.loads(meshes):
        config = toy_config(mesh=MeshConfig(*sizes), num_steps=1, validate_every_steps=1)
        train(ToyObjective(), config, Path(folder) / "x".join(map(str, sizes)), quiet=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
