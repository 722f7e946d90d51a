"""A small configuration and seeded sources in each family's layout."""

from pathlib import Path

import numpy as np
import torch
from networks import abstract_component
from star_weights import golden_weight

from star_jax.checkpoints.trees import flatten
from star_jax.config import StarConfig, TextEncoderConfig, UNetConfig, VAEConfig
from star_jax.convert.families import FAMILIES

# diffusers fixes 32 groups in its VAE and 8 heads after the first convolution.
SMALL = StarConfig(
    "small",
    unet=UNetConfig(
        block_out_channels=(32, 64),
        attention_levels=(True, False),
        layers_per_block=1,
        attention_head_dim=8,
        transformer_in_heads=8,
        cross_attention_dim=16,
        downsample_padding=(1, 1),
    ),
    vae=VAEConfig(block_out_channels=(32, 64)),
    text_encoder=TextEncoderConfig(
        vocab_size=514, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4
    ),
)


def family_shapes(family: str, config: StarConfig = SMALL, keys: tuple[str, ...] = ()) -> dict[str, tuple]:
    """Key -> shape of a source of this family, in the table's order; the ignored keys left out."""
    config = FAMILIES[family].completed(config)
    table = FAMILIES[family].table_for(config, keys)
    leaves = {
        f"{name}/{path}": leaf.shape
        for name in FAMILIES[family].components
        for path, leaf in flatten(abstract_component(config, name)[1]).items()
    }
    shapes = {}
    for rule in table.rules:
        shape = rule.source_shape(leaves[rule.target])
        if rule.channels:
            shape = (shape[0], 2 * shape[1], *shape[2:])
        shapes[rule.source] = shape
    return shapes


# Keys that each family has and that are left out, one or two of each kind.
LEFT_OUT = {
    "venhancer": ["VideoControlNet.hint_time_zero_linear.weight", "VideoControlNet.scale_cond.2.bias"],
    "i2vgen-xl": [
        "local_image_concat.0.weight",
        "local_temporal_encoder.layers.0.0.norm.weight",
        "fps_embedding.2.bias",
    ],
    "diffusers-i2vgen-xl": ["image_latents_proj_in.0.weight", "context_embedding.0.bias"],
    "svd": ["model.diffusion_model.out.0.weight", "conditioner.embedders.0.open_clip.model.logit_scale"],
    "taesdv": ["encoder.0.weight", "encoder.1.conv.0.bias"],
    "open-clip": ["visual.conv1.weight", "text_projection", "logit_scale"],
    "clip": ["vision_model.embeddings.class_embedding", "text_projection.weight", "logit_scale"],
}

# Every family, and the prefixes that its keys may have.
ROUND_TRIPS = [
    ("star", ""),
    ("star", "module."),
    ("venhancer", ""),
    ("vid2vid", ""),
    ("i2vgen-xl", ""),
    ("diffusers-i2vgen-xl", ""),
    ("svd-vae", ""),
    ("svd", "first_stage_model."),
    ("taesdv", ""),
    ("open-clip", ""),
    ("clip", "text_model."),
]


def family_state(family: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """A seeded state dict of this family at the small sizes, the keys that are left out included."""
    state = {
        prefix + key: torch.from_numpy(np.array(golden_weight(key, shape)))
        for key, shape in family_shapes(family).items()
    }
    return state | {key: torch.ones(2) for key in LEFT_OUT.get(family, [])}


def save_state(path: Path, state: dict) -> Path:
    torch.save(state, path)
    return path
