"""Turns the loader's batches into arrays on the mesh, for training and for validation."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from star_jax.data.config import DataConfig
from star_jax.data.loader import ClipLoader
from star_jax.errors import InputError
from star_jax.parallel.mesh import batch_shardings, place_batch, process_share
from star_jax.train.config import TrainConfig
from star_jax.train.objective import Objective

Batch = dict[str, jax.Array]


class TrainBatches:
    """Loads, prepares and places this process's share of the batches of a run.

    Raises:
      InputError: the mesh does not divide the batch, the source cannot be used, or several processes have a
        limited number of epochs.
    """

    def __init__(self, objective: Objective, config: DataConfig, train: TrainConfig, mesh: Mesh):
        self._objective, self._config, self._train = objective, config, train
        self._share = process_share(mesh, train.batch_size)
        if self._share.count > 1 and config.num_epochs is not None:
            raise InputError(
                f"data.num_epochs is {config.num_epochs}, but the shares of {self._share.count} processes do not "
                "end together; set it to None, and limit the run by train.num_steps"
            )
        self._shardings = batch_shardings(mesh, objective.abstract_batch(train.batch_size))
        # With accumulation, the mesh splits each piece.
        batch_shardings(mesh, objective.abstract_batch(train.batch_size // train.grad_accumulation))
        self._validation: list[dict[str, Any]] | None = None
        if train.validate_every_steps:
            self._validation_loader().close()  # rejects an unusable source now, not at the first validation

    def loader(self) -> ClipLoader:
        """A loader of the training data, at the first batch."""
        return self._loader(self._config)

    def place(self, host_batch: dict[str, Any]) -> Batch:
        """Prepares a batch from the loader, which is this process's share, and places it on the mesh."""
        return place_batch(self._objective.prepare_batch(host_batch), self._shardings, self._share)

    def validation(self) -> list[Batch]:
        """The batches to validate on: the same clips and degradations at every call.

        The prepared batches stay in host memory between validations.
        """
        if self._validation is None:
            loader = self._validation_loader()
            count = self._train.validation_batches
            self._validation = [self._objective.prepare_batch(next(loader)) for _ in range(count)]
            loader.close()
        return [place_batch(batch, self._shardings, self._share) for batch in self._validation]

    def _validation_loader(self) -> ClipLoader:
        config = dataclasses.replace(
            self._config,
            source=self._train.validation_source or self._config.source,
            shuffle=False,
            flip_probability=0.0,
            caption_dropout=0.0,
            num_epochs=None,
            num_workers=0,
        )
        return self._loader(config)

    def _loader(self, config: DataConfig) -> ClipLoader:
        return ClipLoader(
            config,
            batch_size=self._share.size,
            process_index=self._share.index,
            process_count=self._share.count,
        )
