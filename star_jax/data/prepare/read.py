"""Prepared datasets: a tensorflow-datasets builder that writes ArrayRecord shards, and the source that reads them.

One example holds a ground-truth clip, K degradations of it and its caption, as encoded clips or as VAE latents.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from star_jax.data import storage
from star_jax.data.config import DataConfig
from star_jax.data.prepare.clip_bytes import decode_clip
from star_jax.data.prepare.manifest import MANIFEST, root_and_split
from star_jax.data.records import BadClipError, Element
from star_jax.data.rng import generator
from star_jax.data.stopwatch import Stopwatch
from star_jax.errors import InputError, StarError, first_line
from star_jax.files import appearing

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ExampleShape:
    """Sizes of an example.

    Attributes:
      num_frames, height, width: size of the ground-truth clip.
      scale: ground-truth pixels per low-resolution pixel along each axis.
      num_degradations: number of low-resolution clips, K.
      latents: whether it holds VAE latents and text embeddings instead of encoded clips.
      spatial_factor: pixels per latent along each axis.
      latent_channels: channels of a latent.
      text_shape: shape of the text embedding (tokens, width).
    """

    num_frames: int
    height: int
    width: int
    scale: int
    num_degradations: int = 1
    latents: bool = False
    spatial_factor: int = 8
    latent_channels: int = 4
    text_shape: tuple[int, int] = (77, 1024)

    def features(self) -> tfds.features.FeaturesDict:
        """The features of an example by name."""
        features = {"key": tfds.features.Text(), "text": tfds.features.Text()}
        if not self.latents:
            clip = tfds.features.Text()  # bytes of an MP4 file
            return tfds.features.FeaturesDict(features | {"gt": clip, "lq": tfds.features.Sequence(clip)})
        size = (self.height // self.spatial_factor, self.width // self.spatial_factor)
        latent = (self.num_frames, *size, self.latent_channels)
        for name in ("mean", "logvar"):
            features[f"gt_{name}"] = tfds.features.Tensor(shape=latent, dtype=np.float16)
            features[f"lq_{name}"] = tfds.features.Tensor(
                shape=(self.num_degradations, *latent), dtype=np.float16
            )
        features["text_embedding"] = tfds.features.Tensor(shape=self.text_shape, dtype=np.float16)
        return tfds.features.FeaturesDict(features)


class _Serializer(tfds.core.example_serializer.ExampleSerializer):
    """Writes equal examples as equal bytes in every process, so that a shard's hash identifies its content."""

    def serialize_example(self, example: Example) -> bytes:
        return self.get_tf_example(example).SerializeToString(deterministic=True)


class StarClips(tfds.core.ShardBasedBuilder):
    """Pairs of ground truth and degraded clips with captions.

    Args:
      data_dir: the dataset's folder.
      shape: sizes of an example.
      shards: split name -> one function per shard that yields (key, example).
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        data_dir: str,
        shape: ExampleShape,
        shards: Mapping[str, list[Callable[[], Iterator[tuple[str, Example]]]]],
    ):
        self._shape = shape
        self._shards = shards
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, features=self._shape.features(), description=self.__class__.__doc__
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager):
        """All shards at once, for `download_and_prepare`; `write_shard` is resumable."""
        return {split: shards for split, shards in self._shards.items() if shards}

    def shard_path(self, split: str, index: int) -> epath.Path:
        template = self._get_filename_template(split_name=split)
        path = template.sharded_filepath(shard_index=index, num_shards=len(self._shards[split]))
        return epath.Path(path)

    def write_shard(self, split: str, index: int) -> tuple[int, str, int]:
        """Writes one shard; it appears under its name only when it is complete.

        Returns:
          (number of examples, SHA-256 of the file, size of the file in bytes).
        """
        path = self.shard_path(split, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = tfds.core.writer.ShardWriter(
            features=self.info.features,
            serializer=_Serializer(self.info.features.get_serialized_info()),
            example_writer=self._example_writer(),
        )
        with appearing(path) as partial:
            count = writer.write(examples=self._shards[split][index](), path=epath.Path(partial))
            data = partial.read_bytes()
        return count, hashlib.sha256(data).hexdigest(), len(data)

    def finish(self, shard_lengths: Mapping[str, list[int]], shard_bytes: Mapping[str, int]) -> None:
        """Writes dataset_info.json and features.json once all shards are written."""
        splits = [
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=lengths,
                num_bytes=shard_bytes[split],
                filename_template=self._get_filename_template(split_name=split),
            )
            for split, lengths in shard_lengths.items()
            if sum(lengths)
        ]
        self.info.set_splits(tfds.core.splits.SplitDict(splits))
        self.info.write_to_directory(self.data_dir)


class PreparedSource:
    """Random access to a prepared dataset; picklable, and opened anew in each worker.

    Args:
      location: the folder, which means its train split, or `folder/validation`.

    Raises:
      InputError: the dataset has no such split.
    """

    def __init__(self, location: str):
        self.root, self.split = root_and_split(location)
        manifest = json.loads(storage.read_text(storage.join(self.root, MANIFEST)))
        self.shape = ExampleShape(
            **manifest["shape"] | {"text_shape": tuple(manifest["shape"]["text_shape"])}
        )
        self._sha256 = [shard["sha256"] for shard in manifest["shards"] if shard["split"] == self.split]
        if self.split not in self._splits():
            raise InputError(f"{self.root} has no split {self.split!r}; it has {', '.join(self._splits())}")

    def _splits(self) -> list[str]:
        return list(self._builder.info.splits)

    @functools.cached_property
    def _builder(self) -> tfds.core.DatasetBuilder:
        return tfds.builder_from_directory(storage.join(self.root, "star_clips/1.0.0"))

    @functools.cached_property
    def _data(self):
        return self._builder.as_data_source(self.split)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_builder", "_data")}

    def __len__(self) -> int:
        return self._builder.info.splits[self.split].num_examples

    def __getitem__(self, index: int) -> "PreparedRecord":
        """Reads one example.

        Raises:
          BadClipError: the shard of the example is damaged.
        """
        try:
            example = self._data[int(index)]
        except (RuntimeError, ValueError, OSError) as error:  # of ArrayRecord and of the example's parser
            raise BadClipError(
                f"a shard of {self.root} is damaged ({first_line(error)}); find it by the SHA-256 in {MANIFEST}, "
                "then restore it or delete it and prepare again"
            ) from error
        return PreparedRecord(example, self.shape)

    def digest(self) -> str:
        """Identifies the content by the shards' hashes."""
        return hashlib.sha256("".join(self._sha256).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class PreparedRecord:
    """One example; `load` turns it into an element."""

    example: Example
    shape: ExampleShape

    @property
    def key(self) -> str:
        return self.example["key"].decode()

    def load(self, config: DataConfig, index: int, stopwatch: Stopwatch | None = None) -> Element:
        """Draws one of the degradations, and whether to mirror the clip and drop the caption.

        Returns:
          the element of `clips.load_clip`; for latents float16 `gt_mean`, `gt_logvar`, `lq_mean`, `lq_logvar`
          [F, h, w, C] and `text_embedding` [tokens, width] in place of the clips (latents are not mirrored; if
          `text` is empty, the caller takes the empty prompt's embedding).

        Raises:
          BadClipError: a clip cannot be decoded.
          InputError: the sizes in the config are not those of the dataset.
        """
        self._check(config)
        rng = generator(config.seed, "clip", index)
        choice = int(rng.integers(self.shape.num_degradations))
        text = "" if rng.random() < config.caption_dropout else self.example["text"].decode()
        element: Element = {"text": text, "key": self.key, "index": index}
        if self.shape.latents:
            for name in ("mean", "logvar"):
                element[f"gt_{name}"] = self.example[f"gt_{name}"]
                element[f"lq_{name}"] = self.example[f"lq_{name}"][choice]
            return element | {"text_embedding": self.example["text_embedding"]}
        try:
            with (stopwatch or Stopwatch())("decode"):
                truth, low = decode_clip(self.example["gt"]), decode_clip(self.example["lq"][choice])
        except StarError as error:
            raise BadClipError(str(error)) from error
        if rng.random() < config.flip_probability:
            truth, low = (np.ascontiguousarray(clip[:, :, ::-1]) for clip in (truth, low))
        return element | {"gt": truth, "lq": low}

    def _check(self, config: DataConfig) -> None:
        have = (self.shape.num_frames, self.shape.height, self.shape.width)
        want = (config.num_frames, config.height, config.width)
        if have != want:
            raise InputError(
                f"the prepared dataset has clips of {have} (frames, height, width), but the config has {want}; set "
                f"data.num_frames, data.height and data.width to the dataset's, or prepare it again"
            )
