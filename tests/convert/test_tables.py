"""The tables against the original's keys at full size, without memory; the engine's strictness."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from convert_samples import LEFT_OUT, SMALL, family_shapes, family_state
from diffusers import AutoencoderKLTemporalDecoder, I2VGenXLUNet
from networks import abstract_component
from transformers import CLIPTextConfig, CLIPTextModel

from star_jax.checkpoints.trees import flatten
from star_jax.convert.families import FAMILIES, recognise
from star_jax.convert.rules import Table, plan
from star_jax.convert.tensors import FileTensor
from star_jax.errors import InputError
from star_jax.presets import PRESETS

FULL = PRESETS["i2vgen-xl"]
STAR_SHAPES = json.loads((Path(__file__).parents[1] / "golden" / "star_i2vgenxl_shapes.json").read_text())


def leaf_shapes(config, *components: str) -> dict[str, tuple]:
    return {
        f"{name}/{path}": leaf.shape
        for name in components
        for path, leaf in flatten(abstract_component(config, name)[1]).items()
    }


def described(shapes, dtype=np.float32) -> dict[str, FileTensor]:
    """Tensors with shapes and no file."""
    return {
        key: FileTensor(Path("none"), key, tuple(shape), np.dtype(dtype), 0, 0)
        for key, shape in shapes.items()
    }


def test_full_size_has_the_originals_parameters():
    leaves = leaf_shapes(FULL, "unet", "controlnet")
    assert len(leaves) == len(STAR_SHAPES) == 2247
    assert sum(math.prod(shape) for shape in leaves.values()) == 2_041_121_910  # 2,041.12 M
    assert sum(math.prod(shape) for shape in STAR_SHAPES.values()) == 2_041_121_910


def test_leaves_and_keys_of_star_correspond_one_to_one():
    leaves = leaf_shapes(FULL, "unet", "controlnet")
    rules = FAMILIES["star"].table_for(FULL, STAR_SHAPES).rules
    assert [rule.source for rule in rules] == list(STAR_SHAPES)  # the original's order
    assert {rule.target for rule in rules} == set(leaves)
    assert len({rule.target for rule in rules}) == len(rules)
    for rule in rules:
        assert list(rule.source_shape(leaves[rule.target])) == STAR_SHAPES[rule.source]


def full_i2vgen():
    return I2VGenXLUNet()


def full_vae():
    return AutoencoderKLTemporalDecoder(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
    )


def full_text_tower():
    sizes = dataclasses.asdict(FULL.text_encoder)
    return CLIPTextModel(CLIPTextConfig(hidden_act="gelu", **sizes))


@pytest.mark.parametrize(
    ("family", "make"),
    [("diffusers-i2vgen-xl", full_i2vgen), ("svd-vae", full_vae), ("clip", full_text_tower)],
)
def test_full_size_tables_take_the_libraries_models(family, make):
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in make().state_dict().items()}
    assert recognise(shapes, "library") == family
    leaves = leaf_shapes(FULL, *FAMILIES[family].components)
    done = plan(FAMILIES[family].table_for(FULL, shapes), described(shapes), leaves, "library")
    assert set(done.rules) | set(done.fresh) == set(leaves)


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.sizes is None])
def test_each_family_is_recognised_and_filled(family):
    state, sizes = family_state(family), FAMILIES[family].completed(SMALL)
    assert recognise(state, "it") == family
    leaves = leaf_shapes(sizes, *FAMILIES[family].components)
    tensors = described({key: tensor.shape for key, tensor in state.items()})
    done = plan(FAMILIES[family].table_for(sizes, state), tensors, leaves, "it")
    assert set(done.rules) | set(done.fresh) == set(leaves)
    assert not set(done.rules) & set(done.fresh)
    assert set(done.ignored) == set(LEFT_OUT.get(family, []))


def star_plan(shapes, table: Table | None = None, dtype=np.float32):
    table = table or FAMILIES["star"].table_for(SMALL, shapes)
    return plan(table, described(shapes, dtype), leaf_shapes(SMALL, "unet", "controlnet"), "it.pt")


def test_strictness():
    shapes = family_shapes("star")
    first = next(iter(shapes))
    with pytest.raises(InputError, match=r"it\.pt has keys that no rule knows: extra\.weight; "):
        star_plan(shapes | {"extra.weight": (3,)})
    with pytest.raises(InputError, match=rf"it\.pt lacks keys: {first}; "):
        star_plan({key: shape for key, shape in shapes.items() if key != first})
    with pytest.raises(
        InputError, match=rf"{first} is \(1, 2\), expected \(128, 32\); choose the right --preset"
    ):
        star_plan(shapes | {first: (1, 2)})
    with pytest.raises(InputError, match="is int64, expected floating-point weights"):
        star_plan(shapes, dtype=np.int64)
    table = FAMILIES["star"].table_for(SMALL, shapes)
    shorter = dataclasses.replace(table, rules=table.rules[1:])
    with pytest.raises(
        InputError, match="has no weights for the network's unet/time_embedding/linear_1/kernel"
    ):
        star_plan({key: shape for key, shape in shapes.items() if key != first}, shorter)
    with pytest.raises(InputError, match="no known family"):
        recognise({"a.weight": 0}, "it")


def test_tables_have_one_rule_per_part_of_a_key():
    for family in FAMILIES.values():
        if family.sizes is not None:  # CogVideoX's have sizes of their own
            continue
        rules = family.table_for(family.completed(FULL), ()).rules
        parts = [(rule.source, rule.part, rule.target.split("/")[0]) for rule in rules]
        assert len(set(parts)) == len(parts)
