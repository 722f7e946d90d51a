"""Batches of STAR's training: clips and captions, or latents and text embeddings from a prepared dataset."""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.checkpoints.directory import checkpoint_path
from star_jax.data import storage
from star_jax.data.config import DataConfig
from star_jax.data.prepare.manifest import MANIFEST, root_and_split
from star_jax.data.sources import open_source
from star_jax.errors import InputError
from star_jax.models.size_rule import SizeRule
from star_jax.models.video_model import VideoModel
from star_jax.train.star.weights import prompt_embedding, require_checkpoint

_LATENT_NAMES = ("gt_mean", "gt_logvar", "lq_mean", "lq_logvar")


class StarBatches:
    """The batches that a model trains on.

    From clips: `gt` uint8 [B, F, H, W, 3] and `lq` uint8 [B, F, h, w, 3], with `input_ids` int32 [B, L] of the
    captions if the model has a text encoder. From a dataset prepared as latents: `gt_mean`, `gt_logvar`, `lq_mean`,
    `lq_logvar` float16 [B, F, H/8, W/8, C] and `text_embedding` float16 [B, L, D]. From both: `index` int32 [B],
    each sample's position in the data.

    Attributes:
      latents: whether the dataset was prepared as latents.
      latent_size: (height, width) of the latents.

    Raises:
      InputError: the networks do not support clips of that size, or the latents of that dataset.
    """

    def __init__(self, model: VideoModel, data: DataConfig, checkpoint: str | None):
        self._model, self._data, self._checkpoint = model, data, checkpoint
        self._text_shape = _latents_text_shape(model, data.source)
        self.latents = self._text_shape is not None
        self.latent_size = _latent_size(model.size_rule, data)

    def check_like(self, source: str) -> None:
        """Rejects a validation source of latents if the training data are clips, and vice versa.

        Raises:
          InputError: there is no such source, or it is of the other kind.
        """
        if (prepared_shape(source) is not None) != self.latents:
            open_source(source, height=self._data.height, width=self._data.width)  # raises if there is none
            kinds = ("latents", "clips") if self.latents else ("clips", "latents")
            raise InputError(
                f"data.source has {kinds[0]}, but train.validation_source {source} has {kinds[1]}; give both the "
                "same kind"
            )

    def prepare(self, host_batch: dict[str, Any]) -> dict[str, np.ndarray]:
        """Tokenises captions; with latents, an empty caption gets the embedding of the empty prompt."""
        batch = {"index": np.asarray(host_batch["index"]).astype(np.int32)}
        if not self.latents:
            batch |= {name: host_batch[name] for name in ("gt", "lq")}
            if self._model.has_text:
                batch["input_ids"] = self.tokenize(host_batch["text"])
            return batch
        embeddings = zip(host_batch["text"], host_batch["text_embedding"], strict=True)
        batch["text_embedding"] = np.stack([e if text else self._empty_prompt for text, e in embeddings])
        return batch | {name: host_batch[name] for name in _LATENT_NAMES}

    def tokenize(self, prompts: Sequence[str]) -> np.ndarray:
        """Token ids int32 [prompts, tokens]."""
        return self._model.tokenize(self._tokenizer, prompts)

    def abstract(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a prepared batch."""
        data, leaf = self._data, jax.ShapeDtypeStruct
        batch = {"index": leaf((batch_size,), jnp.int32)}
        if self._text_shape is not None:
            num_latents = self._model.size_rule.num_latents(data.num_frames)
            shape = (batch_size, num_latents, *self.latent_size, self._model.latent_channels)
            batch["text_embedding"] = leaf((batch_size, *self._text_shape), jnp.float16)
            return batch | {name: leaf(shape, jnp.float16) for name in _LATENT_NAMES}
        scale = data.make_recipe().scale
        for name, divisor in (("gt", 1), ("lq", scale)):
            size = (data.height // divisor, data.width // divisor)
            batch[name] = leaf((batch_size, data.num_frames, *size, 3), jnp.uint8)
        if self._model.has_text:
            batch["input_ids"] = leaf((batch_size, self._model.context_shape[0]), jnp.int32)
        return batch

    @cached_property
    def _tokenizer(self) -> Any:
        return self._model.load_tokenizer(checkpoint_path(require_checkpoint(self._checkpoint)))

    @cached_property
    def _empty_prompt(self) -> np.ndarray:
        return prompt_embedding(self._model, require_checkpoint(self._checkpoint), "")


def prepared_shape(source: str) -> dict[str, Any] | None:
    """Sizes (`ExampleShape`) of a dataset prepared as latents; None for any other source."""
    manifest = storage.join(root_and_split(source)[0], MANIFEST)
    if not storage.exists(manifest):
        return None
    shape = json.loads(storage.read_text(manifest))["shape"]
    return shape if shape["latents"] else None


def _latents_text_shape(model: VideoModel, source: str) -> tuple[int, int] | None:
    """(tokens, width) of the embeddings of a dataset prepared as latents; None for any other source.

    Raises:
      InputError: the latents belong to another model.
    """
    shape = prepared_shape(source)
    if shape is None:
        return None
    theirs = shape["latent_channels"], shape["text_shape"][1]
    ours = model.latent_channels, model.context_shape[1]
    if theirs != ours:
        raise InputError(
            f"data.source {source} has latents of {theirs[0]} channels and text embeddings of width {theirs[1]}, "
            f"but the model needs {ours[0]} and {ours[1]}; prepare the data with this model's checkpoint"
        )
    return tuple(shape["text_shape"])


def _latent_size(rule: SizeRule, data: DataConfig) -> tuple[int, int]:
    """(height, width) of the latents.

    Raises:
      InputError: the model does not support clips of the data's size.
    """
    nearest = rule.nearest(data.height, data.width)
    for name, near, offset in zip(("height", "width"), nearest, rule.offset, strict=True):
        if getattr(data, name) != near:
            raise InputError(
                f"data.{name} is {getattr(data, name)}, which the network does not support; choose {offset} plus a "
                f"multiple of {rule.step}, such as {near}"
            )
    if (padded := rule.padded_frames(data.num_frames)) != data.num_frames:
        raise InputError(
            f"data.num_frames is {data.num_frames}, which the model does not support; choose one more than a "
            f"multiple of {rule.frame_step}, such as {padded}"
        )
    return rule.latent_size(data.height, data.width)
