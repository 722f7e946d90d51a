"""Training from and to a bucket, against emulators of Google's and Amazon's storage on this machine."""

import argparse
import contextlib
import json
import logging
from http import HTTPStatus
from pathlib import Path

import jax
import numpy as np
import pytest
import toy_architecture  # noqa: F401 (registers it)
from etils import epath
from saved_state import saved_state
from toy_training import ToyObjective, toy_config

from star_jax.checkpoints.directory import checkpoint_path, load_provenance, present_components, read_config
from star_jax.errors import InputError
from star_jax.init.random_checkpoint import random_checkpoint
from star_jax.launch.buckets import with_buckets
from star_jax.train.checkpoints import restore_weights
from star_jax.train.loop import Outcome, train
from star_jax.train.speed import MEASURED

SIZES = {"checkpoint_every_steps": 2, "validate_every_steps": 4}
MISSING = "pip install 'star_jax[test]' brings what reads buckets, and the emulators"


async def _copy_and_remove(self, source, target, **kwargs):
    """What gcsfs does where there is no call to move a file; the emulator has none, and gcsfs tries it for long."""
    await self._cp_file(source, target)
    await self._rm_file(source)


def _with_generation(download):
    """The emulator's reading of an object, with the header by which Google says its version.

    TensorStore needs it where it writes a file that it has read before, which depends on how saves fall in time.
    """

    def handle(request, response, storage, *args, **kwargs):
        download(request, response, storage, *args, **kwargs)
        if response.status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            known = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
            response["x-goog-generation"] = known["generation"]

    return handle


@contextlib.contextmanager
def google(patch):
    """URL of an empty bucket of Google's kind."""
    gcsfs = pytest.importorskip("gcsfs", reason=MISSING)
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason=MISSING)
    server = emulator.create_server("localhost", 0, in_memory=True, default_bucket="bucket")
    server.start()
    address = f"http://localhost:{server._api._httpd.socket.getsockname()[1]}"
    for variable in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
        patch.setenv(variable, address)
    patch.setattr(gcsfs.GCSFileSystem, "_mv_file", _copy_and_remove)
    patch.setattr(emulator.objects, "download", _with_generation(emulator.objects.download))
    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield "gs://bucket"
    gcsfs.GCSFileSystem.clear_instance_cache()
    server.stop()


@contextlib.contextmanager
def amazon(patch):
    """URL of an empty bucket of Amazon's kind."""
    s3fs = pytest.importorskip("s3fs", reason=MISSING)
    emulator = pytest.importorskip("moto.server", reason=MISSING)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = emulator.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(variable, "anything")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield "s3://bucket"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module", params=[google, amazon])
def bucket(request):
    """URL of an empty bucket."""
    with pytest.MonkeyPatch.context() as patch, request.param(patch) as url:
        yield url


def computed(root) -> list[dict]:
    lines = [json.loads(line) for line in (epath.Path(root) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in MEASURED} for line in lines]


@pytest.fixture(scope="module")
def on_a_disk(tmp_path_factory):
    """A run that nothing interrupted."""
    root = tmp_path_factory.mktemp("run")
    assert train(ToyObjective(), toy_config(**SIZES), root, quiet=True) == Outcome(6, finished=True)
    return root


def test_a_run_in_a_bucket_resumes_and_equals_one_on_a_disk(bucket, on_a_disk, tmp_path):
    """It is resumed twice, the second time from the checkpoint before a damaged one."""
    objective, config = ToyObjective(), toy_config(**SIZES)
    root = f"{bucket}/run"
    assert train(ToyObjective(), toy_config(**SIZES | {"num_steps": 2}), root, quiet=True).finished
    assert train(ToyObjective(), toy_config(**SIZES | {"num_steps": 4}), root, quiet=True).finished
    damages = bucket.startswith("s3://")  # the emulator of Google's goes on listing a folder that was moved
    if damages:
        (epath.Path(root) / "checkpoints" / "4" / "meta" / "metadata").write_text("{}")
    assert train(ToyObjective(), config, root, quiet=True) == Outcome(6, finished=True)
    assert damages == (epath.Path(root) / "damaged" / "4" / "meta" / "metadata").exists()
    assert computed(root) == computed(on_a_disk)
    assert (epath.Path(root) / "validation" / "0000004.png").read_text() == "picture"
    _, there = restore_weights(root, objective.abstract_params()[0])
    here = saved_state(on_a_disk, 6, objective, config.optimizer, config.train).params
    jax.tree.map(np.testing.assert_array_equal, there, jax.device_get(here))


def test_a_checkpoint_is_made_in_a_bucket_and_copied_once(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("star_jax.checkpoints.remote.tempfile.gettempdir", lambda: str(tmp_path))
    url = f"{bucket}/checkpoints/toy"
    with pytest.raises(InputError, match=f"{url} does not exist"):
        read_config(url)
    provenance = random_checkpoint(url, "toy")
    assert load_provenance(url) == provenance and present_components(url) == ["convolution", "codec"]
    copy = checkpoint_path(url)
    assert checkpoint_path(url) == copy and [path.name for path in copy.parent.iterdir()] == [copy.name]

    with pytest.raises(InputError, match=f"{url} exists; choose another name, or pass --force"):
        random_checkpoint(url, "toy")
    random_checkpoint(url, "toy", seed=1, force=True)
    assert load_provenance(url)["random_seed"] == 1 and checkpoint_path(url) != copy
    (epath.Path(url) / "config.json").unlink()
    with pytest.raises(InputError, match="not a complete one"):
        read_config(url)
    with pytest.raises(InputError, match="is not a checkpoint directory, so --force does not replace"):
        random_checkpoint(url, "toy", force=True)


def test_a_command_reads_and_writes_buckets(bucket, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("star_jax.launch.buckets.tempfile.gettempdir", lambda: str(tmp_path))
    for name in ("a.txt", "sub/b.txt"):
        (epath.Path(bucket) / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (epath.Path(bucket) / "in" / name).write_text(name)

    @with_buckets(reads=("inputs",), writes=("output", "report"))
    def joined(args):
        """Joins the files of the inputs; the second half only if it is let go on."""
        first, folder = args.inputs
        assert first.startswith("A=")
        texts = [
            Path(first[2:]).read_text(),
            *(file.read_text() for file in sorted(Path(folder).rglob("*.txt"))),
        ]
        assert args.report is None
        Path(args.output.replace("{name}", "joined")).write_text(" ".join(texts))
        if args.fail:
            raise InputError("no")

    run = argparse.Namespace(
        inputs=[f"A={bucket}/in/a.txt", f"{bucket}/in/"],
        output=f"{bucket}/out/{{name}}.txt",
        report=None,
        fail=True,
    )
    with pytest.raises(InputError, match="no"):
        joined(run)
    assert [path.read_text() for path in tmp_path.rglob("joined.txt")] == ["a.txt a.txt sub/b.txt"]  # kept
    assert not (epath.Path(bucket) / "out" / "joined.txt").exists()
    run.fail = False
    joined(run)
    assert (epath.Path(bucket) / "out" / "joined.txt").read_text() == "a.txt a.txt sub/b.txt"
    assert capsys.readouterr().out == f"{bucket}/out/joined.txt\n"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    run.inputs[1] = f"{bucket}/other"
    with pytest.raises(InputError, match=f"{bucket}/other does not exist; check the URL"):
        joined(run)
