"""Sources of every kind into checkpoint directories and back, bit by bit; what is refused, and how."""

import json
import os
import shutil

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from convert_samples import LEFT_OUT, ROUND_TRIPS, SMALL, family_state, save_state

from star_jax.checkpoints.directory import iterate_leaves, load_provenance, present_components, read_config
from star_jax.convert.converter import convert_checkpoint
from star_jax.convert.exporter import export_checkpoint
from star_jax.convert.families import FAMILIES
from star_jax.errors import InputError, RunError
from star_jax.init.random_checkpoint import random_checkpoint
from star_jax.launch.cli import main


def convert(source, directory, **kwargs):
    return convert_checkpoint([source], directory, preset=SMALL, **kwargs)


def exported(directory, path, **kwargs) -> dict[str, torch.Tensor]:
    export_checkpoint(directory, path, **kwargs)
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    return torch.load(path, weights_only=True)


def assert_same(actual, expected):
    assert list(actual) == list(expected)
    for key, tensor in expected.items():
        assert actual[key].dtype == tensor.dtype and torch.equal(actual[key], tensor), key


def leaf(directory, target: str) -> np.ndarray:
    name, path = target.split("/", 1)
    return next(iterate_leaves(directory, name, [path]))[1]


def leaves(directory, name: str, paths: list[str]) -> dict[str, np.ndarray]:
    return dict(iterate_leaves(directory, name, paths))


@pytest.fixture(scope="module")
def star_file(tmp_path_factory):
    return save_state(tmp_path_factory.mktemp("star") / "light_deg.pt", family_state("star"))


@pytest.fixture(scope="module")
def vae_file(tmp_path_factory):
    return save_state(tmp_path_factory.mktemp("vae") / "vae.pt", family_state("svd-vae"))


@pytest.mark.parametrize(("family", "prefix"), ROUND_TRIPS)
def test_round_trip_is_bit_identical(tmp_path, family, prefix):
    state = family_state(family, prefix)
    source = save_state(tmp_path / "source.pt", {"state_dict": state, "step": 7})
    provenance = convert(source, tmp_path / "made")
    assert present_components(tmp_path / "made") == list(FAMILIES[family].components)
    for part in provenance["components"].values():
        assert part["family"] == family and part["ignored"] == LEFT_OUT.get(family, [])
    assert_same(exported(tmp_path / "made", tmp_path / "back.pt", layout=family, base=str(source)), state)


def test_star_needs_no_base_and_keeps_its_order(tmp_path, star_file):
    state = torch.load(star_file, weights_only=True)
    convert(star_file, tmp_path / "made")
    assert_same(exported(tmp_path / "made", tmp_path / "back.pt"), state)
    export_checkpoint(tmp_path / "made", tmp_path / "back.safetensors")
    header = (tmp_path / "back.safetensors").read_bytes()[8:].split(b"}}")[0] + b"}}"
    assert [key for key in json.loads(header) if key != "__metadata__"] == list(state)
    back = safetensors.torch.load_file(tmp_path / "back.safetensors")
    assert_same({key: back[key] for key in state}, state)
    # and what was exported converts again
    provenance = convert(tmp_path / "back.safetensors", tmp_path / "again")
    assert provenance["components"]["unet"]["converted"] + provenance["components"]["controlnet"][
        "converted"
    ] == len(state)


def test_initialisations_copy_the_encoder_and_start_the_rest(tmp_path):
    for family in ("vid2vid", "i2vgen-xl", "diffusers-i2vgen-xl"):
        made = tmp_path / family
        state = family_state(family)
        convert(save_state(tmp_path / "source.pt", state), made)
        first = state["conv_in.weight" if "conv_in.weight" in state else "input_blocks.0.0.weight"].numpy()
        kernel = np.moveaxis(first[:, : SMALL.unet.in_channels], (0, 1), (-1, -2))
        copied = ["conv_in/kernel", "down_blocks/0/resnets/0/temporal_conv/layers/3/conv/kernel"]
        gate = "down_blocks/0/attentions/0/block/liem1/conv/kernel"
        zeros = [
            "controlnet_down_blocks/0/kernel",
            "controlnet_mid_block/bias",
            "controlnet_cond_embedding/kernel",
        ]
        unet = leaves(made, "unet", [*copied, gate])
        controlnet = leaves(made, "controlnet", [*copied, gate, *zeros])
        np.testing.assert_array_equal(unet["conv_in/kernel"], kernel)
        for path in copied:
            np.testing.assert_array_equal(unet[path], controlnet[path])
        for path in zeros:
            assert not controlnet[path].any()
        for values in (unet[gate], controlnet[gate]):
            assert values.any() and np.abs(values).max() <= 1 / np.sqrt(98)
        assert not np.array_equal(unet[gate], controlnet[gate])
        fresh = load_provenance(made)["components"]["controlnet"]["fresh"]
        assert fresh["controlnet/controlnet_mid_block/bias"] == "zeros"
        assert fresh["controlnet/transformer_in/block/liem2/proj/kernel"] == "random"


def test_original_svd_layout_gets_an_identity_for_the_folded_convolution(tmp_path):
    convert(save_state(tmp_path / "svd.pt", family_state("svd", "first_stage_model.")), tmp_path / "made")
    np.testing.assert_array_equal(leaf(tmp_path / "made", "vae/quant_conv/kernel")[0, 0], np.eye(8))
    assert not leaf(tmp_path / "made", "vae/quant_conv/bias").any()


def test_text_tower_without_its_unread_last_layer(tmp_path):
    state = {key: x for key, x in family_state("clip").items() if not key.startswith("encoder.layers.2.")}
    provenance = convert(save_state(tmp_path / "clip.bin", state), tmp_path / "made")
    fresh = provenance["components"]["text_encoder"]["fresh"]
    assert len(fresh) == 16 and set(fresh.values()) == {"zeros"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes(tmp_path, vae_file, dtype):
    state = torch.load(vae_file, weights_only=True)
    convert(vae_file, tmp_path / "made", dtype=dtype)
    back = exported(tmp_path / "made", tmp_path / "back.safetensors", layout="svd-vae")
    assert_same(
        {key: back[key] for key in state}, {key: x.to(getattr(torch, dtype)) for key, x in state.items()}
    )
    assert leaf(tmp_path / "made", "vae/quant_conv/bias").dtype == np.dtype(getattr(ml_dtypes, dtype, dtype))
    wide = exported(tmp_path / "made", tmp_path / "wide.pt", layout="svd-vae", dtype="float32")
    assert {x.dtype for x in wide.values()} == {torch.float32}


def test_half_precision_and_strided_sources_stay_as_they_are(tmp_path, vae_file):
    state = {key: x.half() for key, x in torch.load(vae_file, weights_only=True).items()}
    key = "decoder.conv_in.weight"
    state[key] = state[key].transpose(0, 1).contiguous().transpose(0, 1)  # strides that are not C's
    convert(save_state(tmp_path / "vae.pt", state), tmp_path / "made")
    assert_same(exported(tmp_path / "made", tmp_path / "back.pt", layout="svd-vae"), state)


def test_float16_overflow_is_refused(tmp_path, vae_file):
    state = torch.load(vae_file, weights_only=True)
    state["quant_conv.bias"][0] = 1e6
    source = save_state(tmp_path / "vae.pt", state)
    with pytest.raises(InputError, match=r"quant_conv\.bias has numbers too large for float16"):
        convert(source, tmp_path / "made", dtype="float16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vae.pt"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(tmp_path, vae_file, value):
    state = torch.load(vae_file, weights_only=True)
    state["quant_conv.weight"][3, 2] = value
    source = save_state(tmp_path / "vae.pt", state)
    with pytest.raises(InputError, match=r"quant_conv\.weight has values that are not finite; .*--allow-nan"):
        convert(source, tmp_path / "made")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vae.pt"]
    convert(source, tmp_path / "made", allow_nan=True)
    back = exported(tmp_path / "made", tmp_path / "back.pt", layout="svd-vae")["quant_conv.weight"]
    assert torch.equal(back.nan_to_num(nan=7), state["quant_conv.weight"].nan_to_num(nan=7))


def test_existing_destinations(tmp_path, vae_file):
    made = tmp_path / "made"
    made.mkdir()
    (made / "precious.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(InputError, match="exists"):
            convert(vae_file, made, force=force)
    assert [path.name for path in made.iterdir()] == ["precious.txt"]
    convert(vae_file, tmp_path / "other")
    with pytest.raises(InputError, match="--force"):
        convert(vae_file, tmp_path / "other")
    convert(vae_file, tmp_path / "other", dtype="bfloat16", force=True)
    assert leaf(tmp_path / "other", "vae/quant_conv/bias").dtype == ml_dtypes.bfloat16
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "other"]
    with pytest.raises(InputError, match="does not exist; create it first"):
        convert(vae_file, tmp_path / "no" / "made")


def test_folder_with_shards(tmp_path, vae_file):
    state = torch.load(vae_file, weights_only=True)
    keys = list(state)
    shards = {"a-00001.safetensors": keys[::2], "a-00002.safetensors": keys[1::2]}
    for name, part in shards.items():
        safetensors.torch.save_file({key: state[key] for key in part}, tmp_path / name)
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: name for name, part in shards.items() for key in part}}))
    convert(tmp_path, tmp_path / "made")
    back = exported(tmp_path / "made", tmp_path / "back.pt", layout="svd-vae")
    assert_same({key: back[key] for key in keys}, state)

    (tmp_path / "a-00002.safetensors").rename(tmp_path / "gone")
    with pytest.raises(InputError, match=r"lacks shard a-00002\.safetensors \(1 of 2 are missing\)"):
        convert(tmp_path, tmp_path / "again")
    for broken in ("{", "[]", '{"weight_map": {}}', '{"weight_map": {"k": "../x"}}'):
        index.write_text(broken)
        with pytest.raises(InputError, match="not an index of shards"):
            convert(tmp_path, tmp_path / "again")


def test_pipeline_folder_prefers_full_precision_and_takes_the_tokenizer(tmp_path, vae_file):
    random_checkpoint(tmp_path / "random", SMALL)
    snapshot = tmp_path / "snapshot"
    (snapshot / "vae").mkdir(parents=True)
    (snapshot / "model_index.json").write_text("{}")
    state = torch.load(vae_file, weights_only=True)
    safetensors.torch.save_file(state, snapshot / "vae" / "diffusion_pytorch_model.safetensors")
    half = {key: x.half() for key, x in state.items()}
    safetensors.torch.save_file(half, snapshot / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    (tmp_path / "random" / "tokenizer").rename(snapshot / "tokenizer")
    provenance = convert(snapshot, tmp_path / "made")
    assert leaf(tmp_path / "made", "vae/quant_conv/bias").dtype == np.float32
    assert provenance["tokenizer"].endswith("/tokenizer")
    assert (tmp_path / "made" / "tokenizer" / "vocab.json").is_file()


def test_several_sources_and_what_is_missing(tmp_path, star_file, vae_file):
    convert_checkpoint([star_file, vae_file], tmp_path / "made", preset=SMALL)
    assert present_components(tmp_path / "made") == ["unet", "controlnet", "vae"]
    assert read_config(tmp_path / "made") == SMALL
    with pytest.raises(InputError, match=r"has no text_encoder; convert it again with a source that has one"):
        leaf(tmp_path / "made", "text_encoder/x")
    with pytest.raises(InputError, match="both contain vae"):
        convert_checkpoint([vae_file, vae_file], tmp_path / "twice", preset=SMALL)
    with pytest.raises(InputError, match=r"no preset .* has the shapes of"):
        convert_checkpoint([vae_file], tmp_path / "unsized")


def test_expected_digest(tmp_path, vae_file):
    provenance = convert(vae_file, tmp_path / "made")
    (digest,) = provenance["sources"].values()
    assert load_provenance(tmp_path / "made") == provenance
    convert(vae_file, tmp_path / "again", expected_sha256=[digest.upper()])
    with pytest.raises(InputError, match="no source has SHA-256"):
        convert(vae_file, tmp_path / "third", expected_sha256=["0" * 64])
    assert not (tmp_path / "third").exists()


def test_file_of_a_hub_cache_must_have_the_digest_of_its_name(tmp_path, vae_file):
    digest = next(iter(convert(vae_file, tmp_path / "made")["sources"].values()))
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for name, fails in ((digest, False), ("0" * 64, True)):
        (blobs / name).write_bytes(vae_file.read_bytes())
        link = tmp_path / f"{name[:4]}.pt"
        link.symlink_to(blobs / name)
        if fails:
            with pytest.raises(InputError, match="another SHA-256"):
                convert(link, tmp_path / "fails")
        else:
            convert(link, tmp_path / "works")
    assert not (tmp_path / "fails").exists()


def test_command_line(tmp_path, vae_file, capsys):
    sizes = tmp_path / "sizes.json"
    sizes.write_text(SMALL.to_json())
    made = str(tmp_path / "made")
    assert main(["convert", "--inspect", str(vae_file)]) == 0
    assert "family: svd-vae" in capsys.readouterr().out
    assert main(["convert", str(vae_file), made, "--preset", str(sizes), "--dtype", "bfloat16"]) == 0
    assert "vae.pt" in capsys.readouterr().out
    assert main(["inspect", made, "--rows", "9"]) == 0
    out = capsys.readouterr().out
    assert "vae: " in out and "bfloat16" in out and "decoder/conv_in/kernel" in out and "(svd-vae)" in out
    assert main(["export", made, str(tmp_path / "back.pt"), "--layout", "svd-vae"]) == 0
    assert len(torch.load(tmp_path / "back.pt", weights_only=True)) == len(family_state("svd-vae"))
    assert main(["export", made, str(tmp_path / "v1.5"), "--layout", "svd-vae"]) == 0
    assert (tmp_path / "v1.5" / "config.json").exists()  # the name's dot makes it no file
    assert main(["convert", "random:tiny", str(tmp_path / "random"), "--dtype", "bfloat16"]) == 0
    assert main(["inspect", str(tmp_path / "random")]) == 0
    capsys.readouterr()
    for argv, words in (
        (["convert", str(vae_file)], "add the directory to make"),
        (["convert", "/no/such.pt", str(tmp_path / "new")], "/no/such.pt does not exist"),
        (["convert", str(vae_file), made], "exists; choose another name, or pass --force"),
        (["convert", str(vae_file), str(tmp_path / "new"), "--format", "sd3"], "format is 'sd3'"),
        (
            ["convert", str(vae_file), str(tmp_path / "new"), "--format", "clip", "--preset", "tiny"],
            "no rule knows",
        ),
        (["convert", str(vae_file), str(tmp_path / "new"), "--preset", "huge"], "preset is 'huge'"),
        (["convert", "random:huge", str(tmp_path / "new")], "preset is 'huge'"),
        (["convert", "random:tiny", str(tmp_path / "new"), "--seed", "-1"], "--seed is -1"),
        (["export", made, str(tmp_path / "back.pt")], "exists; choose another name, or pass --force"),
        (["export", made, str(tmp_path / "back.zip")], "back.zip in one of"),
        (["export", made, str(tmp_path / "star.pt")], "has no controlnet"),
        (["export", made, str(tmp_path / "i2v.pt"), "--layout", "i2vgen-xl"], "--base"),
        (["export", str(tmp_path), str(tmp_path / "x.pt")], "not a checkpoint directory"),
        (["inspect", "/no/such"], "does not exist"),
    ):
        assert main(argv) == 2, argv
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and words in error
    assert not (tmp_path / "new").exists()


def test_folders_of_other_libraries_are_not_replaced(tmp_path, capsys, vae_file):
    theirs = tmp_path / "vae"
    theirs.mkdir()
    (theirs / "config.json").write_text("{}")
    shutil.copy(vae_file, theirs / "diffusion_pytorch_model.pt")
    before = sorted(theirs.iterdir())
    assert main(["convert", "random:tiny", str(theirs), "--force"]) == 2
    assert "is not a checkpoint directory, so --force does not replace" in capsys.readouterr().err
    assert sorted(theirs.iterdir()) == before


def test_a_source_within_the_destination_is_not_replaced(tmp_path, vae_file):
    made = tmp_path / "made"
    convert(vae_file, made)
    source = shutil.copy(vae_file, made / "vae.pt")
    with pytest.raises(InputError, match=r"lies in .*made, which would be replaced"):
        convert(source, made, force=True)
    assert (made / "vae.pt").is_file()


def test_no_room(tmp_path, star_file, monkeypatch):
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(RunError, match=r"needs 0\.0 GB, but 0\.0 GB are free; free disk space"):
        convert(star_file, tmp_path / "made")
    assert not os.listdir(tmp_path)
