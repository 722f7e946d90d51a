"""A frozen teacher beside the student; both share all weights that are not trained.

`frozen["teacher"]` holds the teacher's version of the trained leaves, in the compute dtype. With low-rank updates
there is none: the teacher is the model without the updates.
"""

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.checkpoints.directory import iterate_leaves, read_config
from star_jax.checkpoints.trees import flatten
from star_jax.errors import InputError
from star_jax.models.lora import LORA
from star_jax.train.distill.config import DistillExperiment
from star_jax.train.distill.student import StudentObjective
from star_jax.train.star.networks import cast_params
from star_jax.train.star.weights import load_weights, prompt_embedding, require_checkpoint

Tree = dict[str, Any]
Batch = dict[str, jax.Array]

TEACHER = "teacher"


class TaughtObjective(StudentObjective):
    """A student with a guided teacher.

    Batches also have the text of the teacher's unconditional branch: `negative_ids` like `input_ids`, or
    `negative_embedding` like `text_embedding`.

    Raises:
      InputError: the model reads no text, so that it cannot be guided, or the teacher has another preset.
    """

    def __init__(self, config: DistillExperiment):
        super().__init__(config)
        if not self.model.has_text:
            raise InputError(
                f"preset {config.model.preset!r} reads no text, so that its sampling is not guided; rung "
                f"{self.rung.rung} needs a model that reads text"
            )
        if self.rung.teacher is not None:
            read_config(self.rung.teacher, expect_preset=config.model.preset)

    def abstract_params(self) -> tuple[Tree, Tree]:
        trainable, frozen = super().abstract_params()
        own = {name: tree for name, tree in self._trainable.items() if name != LORA}
        as_computed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, self.model.dtype), own)
        return trainable, frozen | ({TEACHER: as_computed} if own else {})

    def load(self, abstract_trainable: Tree, abstract_frozen: Tree) -> tuple[Tree, Tree]:
        own = abstract_frozen.get(TEACHER, {})
        base = {name: tree for name, tree in abstract_frozen.items() if name != TEACHER}
        trainable, frozen = super().load(abstract_trainable, base)
        self._check_base()
        return trainable, frozen | ({TEACHER: self.load_teacher(own)} if own else {})

    def load_teacher(self, abstract: Tree) -> Tree:
        """Loads leaves of the teacher's networks, in the dtypes and at the shardings of `abstract`."""
        return load_weights(self._teacher_checkpoint, abstract, {})[0]

    def teacher(self, frozen: Tree) -> Tree:
        """The teacher's weights by component, as `velocity` takes them."""
        return cast_params(self.model, frozen.get(TEACHER, {}), self.base(frozen))

    def base(self, frozen: Tree) -> Tree:
        """The weights that student and teacher share."""
        return {name: tree for name, tree in frozen.items() if name != TEACHER}

    @property
    def _teacher_checkpoint(self) -> str:
        return self.rung.teacher or require_checkpoint(self.checkpoint)

    def _check_base(self) -> None:
        """Rejects a teacher that differs from the student in weights that are not trained.

        Raises:
          InputError: there is such a weight.
        """
        ours, theirs = require_checkpoint(self.checkpoint), self._teacher_checkpoint
        if theirs == ours:
            return
        for name in self.model.network_components:
            paths = list(flatten(self._frozen.get(name, {})))
            if not paths:
                continue
            pairs = zip(iterate_leaves(ours, name, paths), iterate_leaves(theirs, name, paths), strict=True)
            for (path, one), (_, other) in pairs:
                if not np.array_equal(one, other):
                    raise InputError(
                        f"distill.teacher {theirs} differs from model.checkpoint {ours} in {name}/{path}, which is "
                        "not trained and which both share; set model.train_base, or give the teacher's checkpoint "
                        "as model.checkpoint and the updates of a LoRA run as model.lora"
                    )

    # Text of the unconditional branch.

    def prepare_batch(self, host_batch: dict[str, Any]) -> dict[str, np.ndarray]:
        batch = super().prepare_batch(host_batch)
        name = "negative_embedding" if self.batches.latents else "negative_ids"
        return batch | {name: np.repeat(self._negative[None], len(batch["index"]), axis=0)}

    def abstract_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        batch = super().abstract_batch(batch_size)
        name, like = ("embedding", "text_embedding") if self.batches.latents else ("ids", "input_ids")
        return batch | {f"negative_{name}": batch[like]}

    def negative(self, params: Tree, batch: Batch) -> jax.Array:
        """Text embeddings [B, L, D] of the teacher's unconditional branch."""
        if "negative_embedding" in batch:
            embeddings = batch["negative_embedding"].astype(self.model.dtype)
        else:
            embeddings = self.model.encode_text(params, batch["negative_ids"])
        return self.model.unconditional_context(jnp.asarray(embeddings))

    @cached_property
    def _negative(self) -> np.ndarray:
        prompt = self.rung.negative_prompt
        if self.batches.latents:
            return prompt_embedding(self.model, require_checkpoint(self.checkpoint), prompt)
        return self.batches.tokenize([prompt])[0]
