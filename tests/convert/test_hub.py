"""Sources on the Hugging Face Hub, with the Hub replaced by a folder."""

import fnmatch
import shutil

import huggingface_hub
import pytest
import safetensors.torch
from convert_samples import SMALL, family_state

from star_jax.checkpoints.directory import present_components
from star_jax.convert.converter import convert_checkpoint
from star_jax.convert.folders import needed_files
from star_jax.errors import InputError
from star_jax.init.random_checkpoint import random_checkpoint

VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A pipeline's repository, and beside its weights what is not to be downloaded."""
    folder = tmp_path_factory.mktemp("repository")
    random_checkpoint(folder / "random", SMALL)
    (folder / "random" / "tokenizer").rename(folder / "tokenizer")
    shutil.rmtree(folder / "random")
    for file, family in ((VAE, "svd-vae"), (TEXT, "clip")):
        (folder / file).parent.mkdir()
        safetensors.torch.save_file(family_state(family), folder / file)
        (folder / file).with_suffix(".fp16.safetensors").write_bytes(b"half")
        (folder / file).with_suffix(".bin").write_bytes(b"again")
    for file in ("README.md", "model_index.json"):
        (folder / file).write_text("{}")
    # As OpenCLIP's repositories have it: weights and tokenizer in one folder.
    shutil.copytree(folder / "tokenizer", folder / "tower")
    shutil.copyfile(folder / TEXT, folder / "tower" / "model.safetensors")
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path, repository):
    """What was asked for, one entry for each download; only that is in the snapshot."""
    asked = []

    def list_repo_files(self, repo, revision=None):
        return [str(file.relative_to(repository)) for file in repository.rglob("*") if file.is_file()]

    def snapshot_download(repo, *, revision, allow_patterns):
        asked.append((repo, revision, sorted(allow_patterns)))
        root = tmp_path / f"snapshot{len(asked)}"
        for file in list_repo_files(None, repo):
            if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns):
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(repository / file, root / file)
        return str(root)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", list_repo_files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def convert(source, directory):
    return convert_checkpoint([source], directory, preset=SMALL)


def test_a_folder_a_file_and_a_revision(tmp_path, hub):
    convert("hf://owner/name@v1/vae", tmp_path / "made")
    convert(f"hf://owner/name/{VAE}", tmp_path / "again")
    assert hub == [("owner/name", "v1", [VAE]), ("owner/name", None, [VAE])]


def test_a_text_tower_comes_with_its_tokenizer(tmp_path, hub):
    provenance = convert("hf://owner/name/tower", tmp_path / "made")
    assert hub[0][2] == ["tower/merges.txt", "tower/model.safetensors", "tower/vocab.json"]
    assert present_components(tmp_path / "made") == ["text_encoder"]
    assert (tmp_path / "made" / "tokenizer" / "vocab.json").is_file()
    assert provenance["tokenizer"] == "hf://owner/name/tower"


def test_a_pipeline(tmp_path, hub):
    convert("hf://owner/name", tmp_path / "made")
    assert hub[0][2] == ["model_index.json", TEXT, "tokenizer/merges.txt", "tokenizer/vocab.json", VAE]
    assert present_components(tmp_path / "made") == ["vae", "text_encoder"]
    assert (tmp_path / "made" / "tokenizer" / "merges.txt").is_file()


@pytest.mark.parametrize("half", ["", ".fp16"])
def test_shards_come_with_their_index(half):
    shards = [f"model{half}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = f"model.safetensors.index{half}.json"
    assert needed_files([*shards, index, "config.json", "model_card.md"], "x") == [index, *shards]


def test_addresses_that_lead_nowhere(tmp_path, hub, monkeypatch):
    with pytest.raises(InputError, match="no such file or folder with weights"):
        convert("hf://owner/name/unet", tmp_path / "made")
    with pytest.raises(InputError, match=r"write hf://owner/repo\[@revision\]/path"):
        convert("hf://owner", tmp_path / "made")

    def offline(self, repo, revision=None):
        raise huggingface_hub.errors.OfflineModeIsEnabled("Cannot reach the Hub: offline mode is enabled.")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", offline)
    with pytest.raises(InputError, match=r"cannot be downloaded \(Cannot reach the Hub.*check its name, the"):
        convert("hf://owner/name/vae", tmp_path / "made")
    assert not (tmp_path / "made").exists()
