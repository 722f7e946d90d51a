"""Prepared datasets: filters, hash split, resuming, several processes, reading back."""

import dataclasses
import functools
import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from video_files import scene, write_folder, write_video

from star_jax.data.config import DataConfig
from star_jax.data.loader import ClipLoader
from star_jax.data.prepare.read import ExampleShape, StarClips
from star_jax.data.prepare.write import Encoder, PrepareConfig, clip_encoder, plan, prepare
from star_jax.errors import InputError, RunError

SMALL = {"num_frames": 3, "height": 32, "width": 48, "seed": 5, "max_bad_share": 0.5}


def settings(source, output, *, data=None, **changes):
    config = DataConfig(str(source), **{**SMALL, **(data or {})})
    defaults = {"num_degradations": 2, "validation_share": 0.3, "clips_per_shard": 2}
    return PrepareConfig(config, str(output), **{**defaults, **changes})


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_folder(folder, 8)
    (folder / "again.mp4").write_bytes((folder / "clip03.mp4").read_bytes())
    write_video(folder / "short.mp4", scene(20, 2))
    (folder / "broken.mp4").write_bytes(b"not a video")
    return folder


@pytest.fixture(scope="module")
def dataset(videos, tmp_path_factory):
    output = tmp_path_factory.mktemp("prepared")
    config = settings(videos, output)
    return output, prepare(config, clip_encoder(config))


def test_manifest_counts_hashes_and_reasons(dataset):
    output, manifest = dataset
    assert manifest == json.loads((output / "manifest.json").read_text())
    counts = manifest["counts"]
    assert counts["found"] == 11 and counts["skipped"] == 3
    assert counts["train"] + counts["validation"] == 8 and min(counts["train"], counts["validation"]) > 0
    reasons = {entry["key"]: entry["reason"] for entry in manifest["skipped"]}
    assert reasons["clip03.mp4"] == "the same as again.mp4"  # the first by name stays
    assert "too short" in reasons["short.mp4"] and "broken.mp4" in reasons["broken.mp4"]
    for shard in manifest["shards"]:
        assert len(shard["sha256"]) == 64
        assert (output / "star_clips" / "1.0.0" / shard["file"]).stat().st_size == shard["bytes"]
    assert not list(output.rglob(".*"))


def test_tensorflow_datasets_reads_it(dataset):
    output, manifest = dataset
    builder = tfds.builder_from_directory(str(output / "star_clips" / "1.0.0"))
    source = builder.as_data_source("train")
    assert len(source) == manifest["counts"]["train"]
    assert set(source[0]) == {"key", "text", "gt", "lq"} and len(source[0]["lq"]) == 2


def test_loader_reads_both_splits(dataset):
    output, _ = dataset
    keys = []
    for location in (output, output / "validation"):
        config = DataConfig(str(location), **SMALL, num_epochs=1, caption_dropout=0.0)
        for batch in ClipLoader(config, batch_size=1):
            assert batch["gt"].shape == (1, 3, 32, 48, 3) and batch["lq"].shape == (1, 3, 8, 12, 3)
            number = int(batch["key"][0][4:6]) if batch["key"][0].startswith("clip") else None
            assert batch["text"][0] == ("" if number is None else f"scene {number}")
            keys += batch["key"]
    assert len(keys) == len(set(keys)) == 8


def test_both_degradations_are_drawn_and_flips_match(dataset):
    output, _ = dataset
    config = DataConfig(str(output), **SMALL, shuffle=False)
    loader = ClipLoader(config, batch_size=1)
    size = len(loader.records)
    batches = [next(loader) for _ in range(12 * size)]
    first = [batch for batch in batches if batch["key"] == batches[0]["key"]]
    lows = {batch["lq"].tobytes() for batch in first}
    truths = {batch["gt"].tobytes() for batch in first}
    assert len(truths) == 2 and 3 <= len(lows) <= 4  # two degradations, mirrored or not


def test_workers_read_it_alike(dataset):
    output, _ = dataset
    loaders = [
        ClipLoader(DataConfig(str(output), **SMALL, num_workers=workers), batch_size=2) for workers in (0, 1)
    ]
    for one, other in [tuple(next(loader) for loader in loaders) for _ in range(3)]:
        np.testing.assert_array_equal(one["lq"], other["lq"])
        assert one["key"] == other["key"]
    loaders[1].close()


def test_split_depends_on_the_key_alone(videos, tmp_path):
    def members(share):
        work = plan(settings(videos, tmp_path, validation_share=share))
        return {r.key for shard in work.shards["validation"] for _, r in shard}

    assert members(0.2) <= members(0.3) <= members(0.9)
    assert members(0.0) == set()


def shard_hashes(manifest):
    return {shard["file"]: shard["sha256"] for shard in manifest["shards"]}


def test_processes_share_the_work_and_give_the_same_dataset(dataset, videos, tmp_path):
    config = settings(videos, tmp_path)
    encoder = clip_encoder(config)
    assert prepare(config, encoder, process_index=1, process_count=2) is None
    manifest = prepare(config, encoder, process_index=0, process_count=2)
    assert shard_hashes(manifest) == shard_hashes(dataset[1])


def test_a_pipeline_of_beam_gives_the_same_dataset(dataset, videos, tmp_path):
    pytest.importorskip("apache_beam")
    from star_jax.data.prepare.on_beam import prepare_on_beam

    config = settings(videos, tmp_path)
    assert prepare_on_beam(config, functools.partial(clip_encoder, config), []) == dataset[1]
    for path in dataset[0].rglob("*array_record*"):
        assert (tmp_path / path.relative_to(dataset[0])).read_bytes() == path.read_bytes()


def test_equal_examples_are_equal_bytes(dataset):
    """Features are in the order of their names; protobuf would write them in another one in every process."""
    data = next((dataset[0] / "star_clips" / "1.0.0").glob("*train.array_record*")).read_bytes()
    assert data.index(b"\x02gt") < data.index(b"\x03key") < data.index(b"\x02lq") < data.index(b"\x04text")


def test_resume_keeps_finished_shards(dataset, videos, tmp_path):
    config = settings(videos, tmp_path)
    encoder = clip_encoder(config)
    calls = []

    def failing(truth, lows, text):
        calls.append(text)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encoder.encode(truth, lows, text)

    with pytest.raises(KeyboardInterrupt):
        prepare(config, Encoder(encoder.shape, failing))
    finished = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "star_clips").rglob("*array_record*")
        if not path.name.startswith(".")
    }
    assert len(finished) >= 1
    manifest = prepare(config, encoder)
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    assert shard_hashes(manifest) == shard_hashes(dataset[1])
    with pytest.raises(InputError, match=r"begun with other settings \(seed\)"):
        prepare(dataclasses.replace(config, data=dataclasses.replace(config.data, seed=6)), encoder)


def test_the_builder_writes_the_same_in_one_go(tmp_path):
    shape = ExampleShape(1, 8, 8, 4)

    def examples():
        yield "a", {"key": "a", "text": "t", "gt": b"\x00\xff", "lq": [b"\x01"]}

    builder = StarClips(str(tmp_path), shape, {"train": [examples], "validation": []})
    builder.download_and_prepare()
    assert builder.as_data_source("train")[0]["gt"] == b"\x00\xff"


def test_clips_that_were_bad_are_tried_again(tmp_path):
    source = tmp_path / "list.csv"
    source.write_text("path,caption\n" + "".join(f"{i}.mp4,scene {i}\n" for i in range(3)))
    write_video(tmp_path / "0.mp4", scene(0, 3))
    config = settings(source, tmp_path / "out", clips_per_shard=4, validation_share=0.0)
    with pytest.raises(RunError, match="2 of 3 clips could not be used"):
        prepare(config, clip_encoder(config))
    assert not (tmp_path / "out" / "manifest.json").exists()
    for index in (1, 2):
        write_video(tmp_path / f"{index}.mp4", scene(index, 3))
    assert prepare(config, clip_encoder(config))["counts"] == {
        "found": 3,
        "skipped": 0,
        "train": 3,
        "validation": 0,
    }


def test_bad_clips_are_judged_as_a_share_of_all(tmp_path):
    """One of the first shard's two clips is half of what was tried, and an eighth of what there is."""
    source = tmp_path / "list.csv"
    source.write_text("path,caption\n" + "".join(f"{i}.mp4,scene {i}\n" for i in range(8)))
    for index in range(1, 8):
        write_video(tmp_path / f"{index}.mp4", scene(index, 3))
    shares = {"validation_share": 0.0, "data": {"max_bad_share": 0.2}}
    config = settings(source, tmp_path / "out", **shares)
    assert prepare(config, clip_encoder(config))["counts"]["skipped"] == 1
    strict = settings(source, tmp_path / "strict", **{**shares, "data": {"max_bad_share": 0.1}})
    with pytest.raises(RunError, match="1 of 8 clips could not be used"):
        prepare(strict, clip_encoder(strict), process_count=2)
    assert prepare(strict, clip_encoder(strict), process_index=1, process_count=2) is None
    write_video(tmp_path / "0.mp4", scene(0, 3))
    assert prepare(strict, clip_encoder(strict), process_index=1, process_count=2) is None  # nothing to mend
    assert prepare(strict, clip_encoder(strict), process_count=2)["counts"]["train"] == 8


def test_too_many_bad_clips_and_other_mistakes(videos, tmp_path):
    (tmp_path / "bad").mkdir()
    for index in range(3):
        (tmp_path / "bad" / f"{index}.mp4").write_bytes(bytes([index]) * (index + 1))
    config = settings(tmp_path / "bad", tmp_path / "out")
    with pytest.raises(RunError, match="could not be used"):
        prepare(config, clip_encoder(config))
    with pytest.raises(RunError, match="could not be used"):  # nor does it succeed by trying again
        prepare(config, clip_encoder(config))
    with pytest.raises(InputError, match="validation share is 1"):
        settings(videos, tmp_path, validation_share=1.0)
    with pytest.raises(InputError, match=r"clips of \(3, 32, 48\)"):
        config = settings(videos, tmp_path / "ok", num_degradations=1)
        prepare(config, clip_encoder(config))
        next(ClipLoader(DataConfig(str(tmp_path / "ok"), **{**SMALL, "num_frames": 5}), batch_size=1))


def test_a_damaged_shard_costs_its_clips_and_no_others(dataset, tmp_path):
    output, manifest = dataset
    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    shards = [shard["file"] for shard in manifest["shards"] if shard["split"] == "train"]
    damaged = copy / "star_clips" / "1.0.0" / shards[0]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)

    def keys(folder, **changes) -> list[str]:
        config = DataConfig(str(folder), **{**SMALL, **changes}, num_epochs=1)
        return [key for batch in ClipLoader(config, batch_size=1) for key in batch["key"]]

    left = keys(copy, max_bad_share=1.0)
    assert 0 < len(left) < len(keys(output)) and set(left) < set(keys(output))
    with pytest.raises(
        RunError, match=r"could not be used, .*a shard of .* is damaged .*SHA-256 in manifest"
    ):
        keys(copy, max_bad_share=0.0)
