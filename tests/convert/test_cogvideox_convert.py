"""CogVideoX's families: full-size keys one to one, small files there and back, sizes read from tensors alone."""

import dataclasses
import gzip
import json
import math
import re

import jax
import numpy as np
import pytest
import torch
from cogvideox_golden import (
    GOLDEN,
    PREFIX,
    VAE_CONFIG,
    ArrayTensor,
    transformer_config,
    transformer_state,
    vae_state,
)
from diffusers import AutoencoderKLCogVideoX as TorchVAE
from diffusers import CogVideoXTransformer3DModel
from torch_weights import randomize, relative_error
from transformers import T5Config as TorchT5Config
from transformers import T5EncoderModel

from star_jax.checkpoints.directory import load_component, load_provenance, read_config
from star_jax.checkpoints.trees import flatten
from star_jax.convert.converter import convert_checkpoint
from star_jax.convert.exporter import export_checkpoint
from star_jax.convert.families import FAMILIES, recognise
from star_jax.convert.rules import plan
from star_jax.errors import InputError
from star_jax.launch.cli import main
from star_jax.models.architectures import build_model
from star_jax.presets import get_preset


@pytest.fixture(scope="module")
def shapes() -> dict[str, dict[str, list[int]]]:
    return json.loads(gzip.decompress((GOLDEN / "cogvideox_shapes.json.gz").read_bytes()))


def described(shapes: dict) -> dict:
    return {key: ArrayTensor(np.broadcast_to(np.float32(0), shape)) for key, shape in shapes.items()}


def full_leaves(preset, component: str) -> dict[str, tuple]:
    leaves = flatten(build_model(preset).abstract(component))
    return {f"{component}/{path}": leaf.shape for path, leaf in leaves.items()}


@pytest.mark.parametrize(
    ("name", "lora", "unread"), [("5b", 512, 196_608), ("2b", 512, 0), ("5b", 0, 196_608)]
)
def test_full_size_transformers_correspond_one_to_one(shapes, name, lora, unread):
    source = shapes[name]
    assert recognise(source, "it") == "star-cogvideox"
    preset = get_preset(f"cogvideox-{name}")
    config = dataclasses.replace(preset, transformer=dataclasses.replace(preset.transformer, lora_rank=lora))
    leaves = full_leaves(config, "transformer")
    table = FAMILIES["star-cogvideox"].table_for(config, source)
    done = plan(table, described(source), leaves, "it")
    assert set(done.rules) == set(leaves) and not done.fresh
    assert all("freqs_" in key or "position_embeddings" in key for key in done.ignored)
    kept = [key for key in source if key not in done.ignored]
    assert (
        list(dict.fromkeys(key for key in table.source_keys())) == kept or lora == 0
    )  # the original's order
    assert set(table.source_keys()) == set(kept)
    if lora:
        read = sum(math.prod(source[key]) for key in kept)
        assert read == sum(math.prod(shape) for shape in leaves.values())
        counts = {"5b": 5_570_680_488 + 528_482_304, "2b": 1_728_039_672 + 235_929_600}
        assert read + unread == counts[name]


def test_full_size_autoencoder_corresponds_one_to_one(shapes):
    config = get_preset("cogvideox-2b")
    assert recognise(shapes["vae"], "it") == "cogvideox-vae"
    leaves = full_leaves(config, "vae")
    table = FAMILIES["cogvideox-vae"].table_for(config, shapes["vae"])
    assert set(plan(table, described(shapes["vae"]), leaves, "it").rules) == set(leaves)
    assert [rule.source for rule in table.rules] == list(shapes["vae"])


@pytest.mark.parametrize("name", ["5b", "2b"])
def test_sizes_come_from_the_tensors(shapes, name):
    """Whatever a file is called; the 2B network in a file named 5B is the 2B network."""
    from star_jax.convert.cogvideox_sizes import named, sat_transformer, with_lora

    wrong = get_preset("cogvideox-2b" if name == "5b" else "cogvideox-5b")
    tensors = described({key.removeprefix(PREFIX): shape for key, shape in shapes[name].items()})
    found = named(sat_transformer(wrong, tensors, {}))
    assert found == get_preset(f"cogvideox-{name}")
    assert with_lora(found.transformer, tensors, "keep").lora_rank == 512


def save(path, state: dict[str, np.ndarray], prefix: str = PREFIX):
    """A file as DeepSpeed leaves it."""
    tensors = {prefix + key: torch.from_numpy(np.array(array)) for key, array in state.items()}
    engine = {
        "buffer_names": [],
        "sparse_tensor_module_names": set(),
        "global_steps": 7,
        "lr_scheduler": None,
    }
    torch.save({"module": tensors, **engine, "param_shapes": {"a": torch.Size([1])}}, path)
    return path


@pytest.mark.parametrize(("kind", "lora"), [("rope", "keep"), ("sincos", "keep"), ("rope", "merge")])
def test_star_there_and_back(tmp_path, kind, lora):
    config = transformer_config(kind)
    state = transformer_state(config, kind)
    others = {"conditioner.embedders.0.x": np.ones(2), "first_stage_model.encoder.x": np.ones(2)}
    tensors = {PREFIX + key: array for key, array in state.items()} | others
    source = save(tmp_path / "misnamed_5b.pt", tensors, prefix="")
    convert_checkpoint([source], tmp_path / "made", lora=lora)
    found = read_config(tmp_path / "made")
    expected = dataclasses.replace(config, lora_rank=8 if lora == "keep" else 0)
    if kind == "rope":  # nothing tells the text's length, and no table was saved
        expected = dataclasses.replace(
            expected, text_length=226, grid=(13, 30, 45), spatial_interpolation=1.875
        )
    assert found.transformer == expected
    provenance = load_provenance(tmp_path / "made")["components"]["transformer"]
    assert len(provenance.get("merged", [])) == (4 if lora == "merge" else 0)  # stacked: q, k, v, out

    export_checkpoint(tmp_path / "made", tmp_path / "back.pt", layout="star-cogvideox")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    if lora == "keep":
        ignored = ("position_embeddings.weight",)
        kept = {key for key in state if not key.endswith(ignored)}
        assert list(back) == [PREFIX + key for key in state if key in kept]
        assert all(np.array_equal(back[PREFIX + key].numpy(), state[key]) for key in kept)
        return
    assert not any("matrix_" in key for key in back)
    key = "transformer.layers.1.attention.query_key_value."
    update = np.concatenate([state[f"{key}matrix_B.{j}"] @ state[f"{key}matrix_A.{j}"] for j in range(3)])
    merged = state[f"{key}original.weight"] + update / 8
    assert relative_error(back[f"{PREFIX}{key}weight"].numpy(), merged) < 1e-6
    with pytest.raises(InputError, match="are merged and cannot be separated again"):
        export_checkpoint(tmp_path / "made", tmp_path / "again.pt", layout="star-cogvideox", base=str(source))


def test_grid_of_a_stored_table(tmp_path):
    """A rotary table tells its grid; a table of sines also where the text ends."""
    from star_jax.models.cogvideox.positions import rotary_tables

    config = transformer_config("rope", "b")
    cosines, sines = rotary_tables(config, config.grid)
    tables = {"mixins.pos_embed.freqs_cos": cosines, "mixins.pos_embed.freqs_sin": sines}
    source = save(tmp_path / "it.pt", transformer_state(config, "rope") | tables)
    convert_checkpoint([source], tmp_path / "made")
    assert read_config(tmp_path / "made").transformer.grid == (5, 5, 7)


def test_diffusers_transformer(tmp_path):
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "time_embed_dim": 8}
    model = CogVideoXTransformer3DModel(
        **sizes, text_embed_dim=24, sample_width=12, sample_height=8, sample_frames=9, max_text_seq_length=5
    )
    randomize(model, seed=1).save_pretrained(tmp_path / "saved")
    convert_checkpoint([tmp_path / "saved"], tmp_path / "made", lora=4)
    transformer = read_config(tmp_path / "made").transformer
    assert transformer.grid == (3, 4, 6) and transformer.positions == "sincos"
    assert (transformer.text_length, transformer.lora_rank) == (5, 4)
    provenance = load_provenance(tmp_path / "made")["components"]["transformer"]
    assert provenance["family"] == "cogvideox"
    tree = load_component(
        tmp_path / "made", "transformer", build_model(read_config(tmp_path / "made")).abstract("transformer")
    )
    attention = tree["transformer_blocks"]["attn1"]
    assert (
        np.abs(attention["to_q"]["lora_a"]).min(axis=(1, 2)).max() > 0
        and not attention["to_q"]["lora_b"].any()
    )
    assert not tree["patch_embed"]["proj"]["kernel"][
        :, :, 16:
    ].any()  # the low resolution's channels start at zero
    np.testing.assert_allclose(
        tree["patch_embed"]["pos_embedding"], model.patch_embed.pos_embedding[0].numpy(), atol=1e-6
    )
    export_checkpoint(tmp_path / "made", tmp_path / "back", layout="diffusers-cogvideox")
    assert_same(CogVideoXTransformer3DModel.from_pretrained(tmp_path / "back"), model)


def assert_same(back: torch.nn.Module, model: torch.nn.Module) -> None:
    back, model = back.state_dict(), model.state_dict()
    assert back.keys() == model.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in model.items())


def test_autoencoder_in_both_layouts(tmp_path):
    sizes = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    model = randomize(
        TorchVAE(
            **sizes,
            down_block_types=("CogVideoXDownBlock3D",) * 2,
            up_block_types=("CogVideoXUpBlock3D",) * 2,
            temporal_compression_ratio=2,
        ),
        seed=2,
    )
    model.save_pretrained(tmp_path / "saved")
    convert_checkpoint([tmp_path / "saved"], tmp_path / "made")
    vae = read_config(tmp_path / "made").vae
    assert (vae.block_out_channels, vae.layers_per_block, vae.norm_num_groups) == ((8, 16), 1, 4)
    export_checkpoint(tmp_path / "made", tmp_path / "original.safetensors", layout="cogvideox-vae")
    convert_checkpoint(
        [tmp_path / "original.safetensors"], tmp_path / "again", preset=read_config(tmp_path / "made")
    )
    export_checkpoint(tmp_path / "again", tmp_path / "back", layout="diffusers-cogvideox-vae")
    saved = TorchVAE.from_pretrained(tmp_path / "back").state_dict()
    assert all(torch.equal(saved[key], tensor) for key, tensor in model.state_dict().items())


def test_original_autoencoder_under_state_dict(tmp_path):
    state = {key: torch.from_numpy(np.array(array)) for key, array in vae_state().items()}
    torch.save({"state_dict": state | {"loss.logvar": torch.ones(1)}}, tmp_path / "3d-vae.pt")
    convert_checkpoint([tmp_path / "3d-vae.pt"], tmp_path / "made")
    assert read_config(tmp_path / "made").vae == dataclasses.replace(VAE_CONFIG, scaling_factor=0.7)


def small_t5() -> T5EncoderModel:
    config = TorchT5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    return randomize(T5EncoderModel(config), seed=3)


def test_sharded_text_encoder(tmp_path):
    model = small_t5()
    model.save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    assert (tmp_path / "saved" / "model.safetensors.index.json").is_file()
    convert_checkpoint([tmp_path / "saved"], tmp_path / "made")
    text = read_config(tmp_path / "made").text_encoder
    assert (text.hidden_size, text.head_dim, text.num_hidden_layers, text.vocab_size) == (32, 8, 2, 64)
    export_checkpoint(tmp_path / "made", tmp_path / "back", layout="t5-encoder")
    assert_same(T5EncoderModel.from_pretrained(tmp_path / "back"), model)


def test_choices_of_updates(tmp_path):
    source = save(tmp_path / "it.pt", transformer_state(transformer_config("rope"), "rope"))
    with pytest.raises(InputError, match=r"lora is 4; choose merge, keep, .*; the source has rank 8"):
        convert_checkpoint([source], tmp_path / "made", lora=4)
    with pytest.raises(InputError, match="preset 'tiny' is not one of CogVideoX"):
        convert_checkpoint([source], tmp_path / "made", preset="tiny")
    with pytest.raises(InputError, match="has keys that no rule knows"):
        convert_checkpoint([source], tmp_path / "made", preset="tiny-cogvideox")
    assert not (tmp_path / "made").exists()
    assert jax.devices()  # nothing of it needed more than the sizes


def system() -> dict[str, torch.Tensor]:
    """All networks in one file, as DeepSpeed saves them."""
    parts = {
        PREFIX: transformer_state(transformer_config("sincos"), "sincos"),
        "first_stage_model.": vae_state(),
    }
    tensors = {
        prefix + key: torch.from_numpy(np.array(array))
        for prefix, state in parts.items()
        for key, array in state.items()
    }
    text = small_t5().state_dict()
    return tensors | {f"conditioner.embedders.0.transformer.{key}": tensor for key, tensor in text.items()}


def test_a_whole_system_in_one_old_file(tmp_path, capsys):
    """In PyTorch's format from before 1.6; a network with a file of its own is taken from there."""
    state = system()
    torch.save({"module": state}, tmp_path / "all.pt", _use_new_zipfile_serialization=False)
    torch.save({key: 2 * x for key, x in state.items() if key.startswith("first_stage")}, tmp_path / "vae.pt")
    assert main(["convert", "--inspect", str(tmp_path / "all.pt")]) == 0
    report = capsys.readouterr().out
    families = re.findall(r"family: ([\w-]+)", report)
    assert families == ["star-cogvideox", "cogvideox-vae", "t5-encoder"]
    assert "3 layers, width 64 (4 heads of 16), 32 channels in and 16 out" in report
    assert "sincos positions of 5x4x6 tokens, low-rank updates of rank 8" in report
    assert "widths 64 128 128 256, 2 blocks a level" in report and "vocabulary of 64" in report

    made = {
        name: convert_checkpoint(sources, tmp_path / name)
        for name, sources in {
            "one": [tmp_path / "all.pt"],
            "two": [tmp_path / "all.pt", tmp_path / "vae.pt"],
        }.items()
    }
    assert set(made["one"]["components"]) == {"transformer", "vae", "text_encoder"}
    assert not any(part["ignored"] for name, part in made["one"]["components"].items() if name == "vae")
    assert made["two"]["components"]["vae"]["source"].endswith("vae.pt")
    model = build_model(read_config(tmp_path / "one"))
    kernels = [
        load_component(tmp_path / name, "vae", model.abstract("vae"))["encoder"]["conv_in"]["conv"]["kernel"]
        for name in made
    ]
    np.testing.assert_array_equal(2 * kernels[0], kernels[1])


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        ("mixins.patch_embed.proj_sr.weight", (64, 128), r"is \(64, 128\), expected 4 axes"),
        (
            "mixins.patch_embed.proj_sr.weight",
            (64, 48, 2, 2),
            "takes 24 channels per clip, but the network returns",
        ),
        ("mixins.adaln_layer.query_layernorm_list.0.weight", (24,), "which do not divide the width 64"),
        ("mixins.adaln_layer.query_layernorm_list.0.weight", (8,), "8 heads of 8 channels; rotary positions"),
        ("time_embed.0.weight", None, "the source lacks time_embed.0.weight"),
        ("transformer.layers.1.mlp.dense_h_to_4h.bias", None, "lacks keys: .*dense_h_to_4h.bias"),
        ("transformer.layers.1.mlp.dense_h_to_4h.bias", (7,), r"is \(7,\), expected \(256,\)"),
        ("transformer.layers.1.mlp.further.bias", (7,), "has keys that no rule knows: .*further"),
    ],
)
def test_networks_that_do_not_convert(tmp_path, capsys, key, shape, words):
    state = transformer_state(transformer_config("rope"), "rope")
    changed = {key: np.zeros(shape, np.float32)} if shape else {}
    source = save(tmp_path / "it.pt", {k: v for k, v in state.items() if k != key} | changed)
    with pytest.raises(InputError, match=words):
        convert_checkpoint([source], tmp_path / "made")
    assert main(["convert", "--inspect", str(source)]) == 0
    assert re.search(f"does not convert: .*{words}", capsys.readouterr().out)
