"""Training from and to a bucket, against an emulator of Google's storage on this machine."""

import json
import logging

import fsspec
import jax
import numpy as np
import pytest
from etils import epath
from saved_state import saved_state
from toy_training import ToyObjective, toy_config

from star_jax.checkpoints.directory import CONFIG_FILE, PROVENANCE_FILE, checkpoint_path, read_config
from star_jax.errors import InputError
from star_jax.train.checkpoints import restore_weights
from star_jax.train.loop import Outcome, train
from star_jax.train.speed import MEASURED

gcsfs = pytest.importorskip("gcsfs", reason="pip install 'star_jax[test]' brings gcsfs and the emulator")
emulator = pytest.importorskip("gcp_storage_emulator.server")


async def _copy_and_remove(self, source, target, **kwargs):
    """What gcsfs does where there is no call to move a file; the emulator has none, and gcsfs tries it for long."""
    await self._cp_file(source, target)
    await self._rm_file(source)


@pytest.fixture(scope="module")
def bucket():
    """URL of an empty bucket."""
    server = emulator.create_server("localhost", 0, in_memory=True, default_bucket="bucket")
    server.start()
    address = f"http://localhost:{server._api._httpd.socket.getsockname()[1]}"
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
            patch.setenv(variable, address)
        patch.setattr(gcsfs.GCSFileSystem, "_mv_file", _copy_and_remove)
        logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
        gcsfs.GCSFileSystem.clear_instance_cache()
        yield "gs://bucket"
        gcsfs.GCSFileSystem.clear_instance_cache()
    server.stop()


def computed(root) -> list[dict]:
    lines = [json.loads(line) for line in (epath.Path(root) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in MEASURED} for line in lines]


def test_a_run_in_a_bucket_resumes_and_equals_one_on_a_disk(bucket, tmp_path):
    sizes = {"checkpoint_every_steps": 2, "validate_every_steps": 4}
    objective, config = ToyObjective(), toy_config(**sizes)
    assert train(objective, config, tmp_path, quiet=True) == Outcome(6, finished=True)
    root = f"{bucket}/run"
    assert train(ToyObjective(), toy_config(**sizes | {"num_steps": 2}), root, quiet=True).finished
    assert train(ToyObjective(), config, root, quiet=True) == Outcome(6, finished=True)
    assert computed(root) == computed(tmp_path)
    assert (epath.Path(root) / "validation" / "0000004.png").read_text() == "picture"
    _, there = restore_weights(root, objective.abstract_params()[0])
    here = saved_state(tmp_path, 6, objective, config.optimizer, config.train).params
    jax.tree.map(np.testing.assert_array_equal, there, jax.device_get(here))


def test_a_checkpoint_in_a_bucket_is_copied_once(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("star_jax.checkpoints.remote.tempfile.gettempdir", lambda: str(tmp_path))
    url = f"{bucket}/checkpoints/small"
    with pytest.raises(InputError, match=f"{url} does not exist"):
        read_config(url)
    for name in (CONFIG_FILE, PROVENANCE_FILE, "unet/d/array"):
        source = checkpoint_path("tiny-star") / name
        content = source.read_bytes() if source.is_file() else b"numbers"
        with fsspec.open(f"{url}/{name}", "wb") as file:
            file.write(content)
    gcsfs.GCSFileSystem.clear_instance_cache()
    assert read_config(url) == read_config("tiny-star")
    copy = checkpoint_path(url)
    assert (copy / "unet" / "d" / "array").read_bytes() == b"numbers"
    assert checkpoint_path(url) == copy and [path.name for path in copy.parent.iterdir()] == [copy.name]
