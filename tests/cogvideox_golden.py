"""The networks that the numbers of tests/golden/cogvideox_*.npz were made with, and their weights."""

import json
from pathlib import Path

import numpy as np
from flax import nnx
from star_weights import golden_weight

from star_jax.checkpoints.trees import flatten, unflatten
from star_jax.config.cogvideox import CausalVAEConfig, TransformerConfig
from star_jax.convert.rules import Table, plan
from star_jax.models.cogvideox.positions import sincos_table

GOLDEN = Path(__file__).parent / "golden"
PREFIX = "model.diffusion_model."


def transformer_config(kind: str, case: str = "a", lora_rank: int = 0) -> TransformerConfig:
    """Positions are `rope` or `sincos`; case `a` has a grid of 4x6 tokens, `b` one of 5x7."""
    return TransformerConfig(
        num_layers=3,
        num_attention_heads=4,
        attention_head_dim=16,
        time_embed_dim=32,
        text_embed_dim=48,
        text_length=7,
        positions={"rope": "rotary"}.get(kind, kind),
        grid=(5, 4, 6) if case == "a" else (5, 5, 7),
        lora_rank=lora_rank,
    )


class ArrayTensor:
    """A tensor of a source that is in memory; what the rules ask of a `FileTensor`."""

    def __init__(self, array: np.ndarray):
        self.array, self.shape, self.dtype, self.path = array, array.shape, array.dtype, "memory"

    def read(self) -> np.ndarray:
        return self.array


def golden_state(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """A source's tensors by key, tables of positions left out."""
    tables = ("freqs_sin", "freqs_cos", "pos_embedding")
    return {
        key: golden_weight(key, tuple(shape)) for key, shape in shapes.items() if not key.endswith(tables)
    }


def transformer_state(config: TransformerConfig, kind: str) -> dict[str, np.ndarray]:
    """The small transformer's source, in the original's layout, without prefix."""
    shapes = json.loads((GOLDEN / "cogvideox_dit_tiny_shapes.json").read_text())[kind]
    state = {key.removeprefix(PREFIX): array for key, array in golden_state(shapes).items()}
    if config.positions == "sincos":
        rows = ((config.text_length, 0), (0, 0))
        table = np.pad(sincos_table(config, config.grid), rows)[None]
        state = {"mixins.pos_embed.pos_embedding": table, **state}  # the original's order
    return state


def filled(table: Table, state: dict[str, np.ndarray], component: str, module: nnx.Module) -> dict:
    """A module's parameters from a source, as the converter fills them."""
    tensors = {key: ArrayTensor(array) for key, array in state.items()}
    abstract = flatten(nnx.to_pure_dict(nnx.state(module)))
    leaves = {f"{component}/{path}": leaf.shape for path, leaf in abstract.items()}
    rules = plan(table, tensors, leaves, "golden").rules
    tree = {}
    for path, leaf in abstract.items():
        parts = [rule.read(tensors) for rule in rules[f"{component}/{path}"]]
        is_stack = rules[f"{component}/{path}"][0].layer is not None
        tree[path] = np.stack(parts) if is_stack else parts[0]
        assert tree[path].shape == leaf.shape
    return unflatten(tree)


VAE_CONFIG = CausalVAEConfig(block_out_channels=(64, 128, 128, 256), layers_per_block=2)


def vae_state() -> dict[str, np.ndarray]:
    """The small autoencoder's source, in the original's layout."""
    return golden_state(json.loads((GOLDEN / "cogvideox_vae_tiny_shapes.json").read_text()))
