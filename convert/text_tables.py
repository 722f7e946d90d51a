"""Tables of CLIP's text tower: transformers' CLIPTextModel, whose names are ours, and OpenCLIP."""

from collections.abc import Collection

from star_jax.config import StarConfig
from star_jax.convert.rules import DENSE, EMBEDDING, LINEAR, NORM, SAME, Rule, Table
from star_jax.init.leaves import ZEROS

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_ROOT = "text_encoder/"


def clip_table(config: StarConfig, keys: Collection[str]) -> Table:
    """transformers' CLIPTextModel, or the text half of a CLIPModel."""
    rules = [
        *EMBEDDING.rules("embeddings.token_embedding", _ROOT + "embeddings/token_embedding"),
        *EMBEDDING.rules("embeddings.position_embedding", _ROOT + "embeddings/position_embedding"),
    ]
    layers, fresh = _layers(config, keys, "encoder.layers.{}.layer_norm1.weight")
    for i in range(layers):
        source, target = f"encoder.layers.{i}", f"{_ROOT}encoder/layers/{i}"
        for name in (*_PROJECTIONS, "out_proj"):
            rules += DENSE.rules(f"{source}.self_attn.{name}", f"{target}/self_attn/{name}")
        rules += NORM.rules(f"{source}.layer_norm1", f"{target}/layer_norm1")
        rules += DENSE.rules(f"{source}.mlp.fc1", f"{target}/mlp/fc1")
        rules += DENSE.rules(f"{source}.mlp.fc2", f"{target}/mlp/fc2")
        rules += NORM.rules(f"{source}.layer_norm2", f"{target}/layer_norm2")
    rules += NORM.rules("final_layer_norm", _ROOT + "final_layer_norm")
    ignored = (
        r"embeddings\.position_ids",
        r"vision_model\..+",
        r"(visual|text)_projection\.weight",
        r"logit_scale",
    )
    return Table(tuple(rules), ignored, fresh)


def open_clip_table(config: StarConfig, keys: Collection[str]) -> Table:
    """OpenCLIP's text tower, whose attention has query, key and value in one tensor."""
    rules = [
        Rule("positional_embedding", _ROOT + "embeddings/position_embedding/embedding", SAME),
        *EMBEDDING.rules("token_embedding", _ROOT + "embeddings/token_embedding"),
    ]
    layers, fresh = _layers(config, keys, "transformer.resblocks.{}.ln_1.weight")
    for i in range(layers):
        source, target = f"transformer.resblocks.{i}", f"{_ROOT}encoder/layers/{i}"
        rules += NORM.rules(f"{source}.ln_1", f"{target}/layer_norm1")
        for key, leaf, layout in (("in_proj_weight", "kernel", LINEAR), ("in_proj_bias", "bias", SAME)):
            for part, name in enumerate(_PROJECTIONS):
                rule = Rule(
                    f"{source}.attn.{key}", f"{target}/self_attn/{name}/{leaf}", layout, part=(part, 3)
                )
                rules.append(rule)
        rules += DENSE.rules(f"{source}.attn.out_proj", f"{target}/self_attn/out_proj")
        rules += NORM.rules(f"{source}.ln_2", f"{target}/layer_norm2")
        rules += DENSE.rules(f"{source}.mlp.c_fc", f"{target}/mlp/fc1")
        rules += DENSE.rules(f"{source}.mlp.c_proj", f"{target}/mlp/fc2")
    rules += NORM.rules("ln_final", _ROOT + "final_layer_norm")
    ignored = (r"visual\..+", r"text_projection", r"logit_scale", r"logit_bias", r"attn_mask")
    return Table(tuple(rules), ignored, fresh)


def _layers(config: StarConfig, keys: Collection[str], name: str) -> tuple[int, tuple[tuple[str, str], ...]]:
    """Number of layers in the source, and the fresh leaves.

    Stable Diffusion 2's copies of the tower lack the last layer, which is never used; its leaves are then zeros.
    """
    assert config.text_encoder is not None
    layers = config.text_encoder.num_hidden_layers
    if name.format(layers - 1) in keys or name.format(layers - 2) not in keys:
        return layers, ()
    return layers - 1, ((rf"text_encoder/encoder/layers/{layers - 1}/.+", ZEROS),)
