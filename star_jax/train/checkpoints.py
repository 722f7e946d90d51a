"""Checkpoints of a run in Orbax's CheckpointManager: state, position in the data and sums of metrics, together.

    WORKDIR/checkpoints/STEP/{state,data,meta}     a step appears under its name only when it is complete
    WORKDIR/damaged/STEP                           a checkpoint that could not be read, moved out of the way

This is the only file of training that uses Orbax.
"""

import hashlib
import json
import logging
import os
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from etils import epath

from star_jax.checkpoints.remote import move_folder
from star_jax.checkpoints.s3 import teach_orbax_s3
from star_jax.checkpoints.trees import restore_tree
from star_jax.data.loader import deal_anew
from star_jax.errors import InputError, RunError, StarError, first_line
from star_jax.files import check_seal, seal
from star_jax.parallel.peers import gather_texts
from star_jax.train.config import TrainConfig
from star_jax.train.digest import digest
from star_jax.train.state import TrainState, Tree
from star_jax.train.workdir import CHECKPOINTS, absolute

logger = logging.getLogger(__name__)
teach_orbax_s3()

Restored = tuple[TrainState, dict[str, Any]]
# Kinds of arrays in a state; `restore_weights` reads one of them alone.
_PARTS = ("step", "params", "ema_params", "opt_state")


class TrainCheckpoints:
    """The checkpoints of one work directory; every process creates this object and calls the same methods.

    Args:
      workdir: a path, gs://bucket/run or s3://bucket/run.
      config: has the number of checkpoints to keep.
    """

    def __init__(self, workdir: str | os.PathLike, config: TrainConfig):
        root = absolute(workdir)
        self._directory, self._damaged = root / CHECKPOINTS, root / "damaged"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=config.keep_checkpoints,
            keep_period=config.keep_every_steps or None,
            cleanup_tmp_directories=True,  # those of a save that was killed
            enable_async_checkpointing=True,
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options, handler_registry=_handlers())

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, batches: grain.DatasetIterator, meta: dict[str, Any]) -> None:
        """Saves after a step; returns once the state is copied from the devices, and writes in the background.

        Raises:
          RunError: this save, or the one before it, could not be written.
        """
        described = {
            **meta,
            "process_count": jax.process_count(),
            "structure": _structure(state),
            "digests": {part: digest(getattr(state, part)) for part in _PARTS},
        }
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=grain.checkpoint.CheckpointSave(batches),
            meta=ocp.args.JsonSave(seal(described)),
        )
        try:
            self._manager.save(int(state.step), args=arguments, force=True)
        except (OSError, ValueError) as error:
            raise self._unwritable(error) from error

    def restore(self, abstract_state: TrainState, batches: grain.DatasetIterator) -> Restored | None:
        """Restores the newest good checkpoint, and moves the loader to the batch after it.

        A checkpoint is damaged if, in any process, a file is missing or cannot be read, or the numbers are not
        those that were saved. The log names it, the one before it is restored, and the damaged one is moved to
        WORKDIR/damaged, so that its step can be saved again.

        Args:
          abstract_state: shapes and shardings; the shardings may differ from those of the saved state.
          batches: the loader.

        Returns:
          (state, meta), or None if there is no checkpoint.

        Raises:
          InputError: the checkpoint has other weights than this run.
          RunError: there are checkpoints, but none can be read, or they belong to other data.
        """
        damaged: list[int] = []
        reason = ""
        for step in reversed(self.steps()):
            restored, reason = self._try(step, abstract_state, batches)
            if restored is not None:
                self._set_aside(damaged)
                return restored
            logger.warning("checkpoint %d is damaged (%s); trying the one before it", step, reason)
            damaged.append(step)
        if damaged:
            raise RunError(
                f"no checkpoint in {self._directory} can be read ({reason}); restore it from a copy, or choose "
                "another --workdir"
            )
        return None

    def reached_preemption(self, step: int) -> bool:
        """Whether all processes of a run on several machines must save and stop after this step."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Waits until the last save is on disk.

        Raises:
          RunError: the save could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Waits for the last save and ends the background threads."""
        self.wait()
        self._manager.close()

    def _try(
        self, step: int, abstract_state: TrainState, batches: grain.DatasetIterator
    ) -> tuple[Restored | None, str]:
        """(checkpoint, ""), or (None, why it cannot be used); the same in every process."""
        restored, reason = None, ""
        try:
            restored = self._restore(self._directory / str(step), abstract_state, batches)
        except StarError:
            raise
        except Exception as error:  # Orbax raises errors of any class, even Exception itself
            if "RESOURCE_EXHAUSTED" in str(error):  # there is too little memory; the checkpoint is good
                raise
            logger.debug("checkpoint %d", step, exc_info=True)
            reason = first_line(error)
        reason = next(filter(None, gather_texts(reason)), "")
        if not reason and (parts := _changed(restored)):
            reason = f"the values of {', '.join(parts)} are not those that were saved"
        return (None, reason) if reason else (restored, "")

    def _restore(
        self, folder: epath.Path, abstract_state: TrainState, batches: grain.DatasetIterator
    ) -> Restored:
        """Reads with the items' handlers, because Orbax's manager would wait for processes that failed to read."""
        meta = ocp.JsonCheckpointHandler().restore(folder / "meta", args=ocp.args.JsonRestore())
        check_seal(meta)
        if meta["structure"] != _structure(abstract_state):
            raise InputError(
                f"checkpoint {folder.name} of {self._directory} holds other weights than this configuration trains "
                "(the model differs, or only one has train.ema_decay); choose another --workdir"
            )
        state = ocp.StandardCheckpointHandler().restore(
            folder / "state", args=ocp.args.StandardRestore(abstract_state)
        )
        batches.set_state(_position(folder / "data", meta["process_count"]))
        return state, meta

    def _set_aside(self, damaged: list[int]) -> None:
        if damaged and jax.process_index() == 0:
            for step in damaged:
                move_folder(self._directory / str(step), self._damaged / str(step))
        if damaged:
            ocp.multihost.sync_global_processes("set_aside_damaged")
            self._manager.reload()

    def _unwritable(self, error: BaseException) -> RunError:
        return RunError(
            f"cannot save to {self._directory}: {first_line(error)}; free disk space, then run the same command "
            f"again: it resumes at step {max(self.steps(), default=0)}"
        )


def saved_steps(workdir: str | os.PathLike) -> list[int]:
    """Steps that have a checkpoint, oldest first."""
    directory = absolute(workdir) / CHECKPOINTS
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isdigit())


def restore_weights(
    workdir: str | os.PathLike, abstract: Tree, *, step: int | None = None, ema: bool = False
) -> tuple[int, Tree]:
    """Restores trained weights without the optimizer's state, to this process's first device.

    Args:
      workdir: work directory of the run.
      abstract: shapes of the weights.
      step: step of the checkpoint; the newest by default.
      ema: whether to restore the moving average instead.

    Returns:
      (step, weights).

    Raises:
      InputError: there is no checkpoint of that step, or it is damaged.
    """
    directory, steps = absolute(workdir) / CHECKPOINTS, saved_steps(workdir)
    if not steps or (step is not None and step not in steps):
        which = "" if step is None else f" of step {step}"
        remedy = f"choose one of {', '.join(map(str, steps))}" if steps else "train the run first"
        raise InputError(f"{directory} has no checkpoint{which}; {remedy}")
    chosen = steps[-1] if step is None else step
    part = "ema_params" if ema else "params"
    weights = restore_tree(directory / str(chosen) / "state", {part: abstract})[part]
    if digest(weights) != _read_meta(directory / str(chosen)).get("digests", {}).get(part, digest(weights)):
        others = ", ".join(str(step) for step in steps if step != chosen)
        raise InputError(
            f"checkpoint {chosen} of {directory} is damaged: the weights are not those that were saved; choose "
            f"another step{f' ({others})' if others else ''}"
        )
    return chosen, weights


def _read_meta(folder: epath.Path) -> dict[str, Any]:
    """The metadata of a checkpoint; {} if it cannot be read."""
    try:
        return dict(ocp.JsonCheckpointHandler().restore(folder / "meta", args=ocp.args.JsonRestore()))
    except (OSError, ValueError, TypeError):
        return {}


def _changed(restored: Restored | None) -> list[str]:
    """Parts of a state whose values are not those that were saved; old checkpoints have no digests to compare."""
    if restored is None:
        return []
    state, meta = restored
    saved = meta.get("digests", {})
    return [part for part in _PARTS if part in saved and digest(getattr(state, part)) != saved[part]]


def _position(folder: epath.Path, saved_by: int) -> dict[str, Any]:
    """The state of this process's loader; it is dealt anew if another number of processes saved it."""

    def read(index: int) -> dict[str, Any]:
        return json.loads((folder / f"process_{index}-of-{saved_by}.json").read_text())

    if saved_by == jax.process_count():
        return read(jax.process_index())
    logger.info("resuming a run of %d processes with %d", saved_by, jax.process_count())
    return deal_anew([read(index) for index in range(saved_by)])


def _handlers() -> ocp.handlers.DefaultCheckpointHandlerRegistry:
    """One handler per item, so that a manager can restore some of the items only."""
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    kinds = {
        "state": (ocp.StandardCheckpointHandler(), ocp.args.StandardSave, ocp.args.StandardRestore),
        "data": (
            grain.checkpoint.CheckpointHandler(),
            grain.checkpoint.CheckpointSave,
            grain.checkpoint.CheckpointRestore,
        ),
        "meta": (ocp.JsonCheckpointHandler(), ocp.args.JsonSave, ocp.args.JsonRestore),
    }
    for name, (handler, *arguments) in kinds.items():
        for kind in arguments:
            registry.add(name, kind, handler)
    return registry


def _structure(state: TrainState) -> str:
    """A digest of the paths and shapes of all leaves; it distinguishes another model from a damaged file."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    text = "\n".join(f"{jax.tree_util.keystr(path)} {tuple(leaf.shape)}" for path, leaf in leaves)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
