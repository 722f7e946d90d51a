"""The text tower against transformers' CLIPTextModel, small and seeded; the full size's parameter count."""

import numpy as np
import pytest
import torch
from flax import nnx
from torch_weights import jitted, load_torch, parameter_sizes, randomize, relative_error
from transformers import CLIPTextConfig, CLIPTextModel

from star_jax.config import TextEncoderConfig
from star_jax.models.clip.text_encoder import CLIPTextEncoder

CONFIG = TextEncoderConfig(
    vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4
)
TOLERANCE = 1e-5


def torch_encoder(config: TextEncoderConfig) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            max_position_embeddings=config.max_position_embeddings,
            hidden_act="gelu",
            bos_token_id=config.vocab_size - 2,
            eos_token_id=config.vocab_size - 1,
        )
    )


@pytest.fixture(scope="module")
def reference() -> CLIPTextModel:
    return randomize(torch_encoder(CONFIG), seed=0)


@pytest.fixture(scope="module")
def encoder(reference) -> CLIPTextEncoder:
    model = nnx.eval_shape(lambda: CLIPTextEncoder.from_config(CONFIG, rngs=nnx.Rngs(0)))
    return load_torch(model, reference.state_dict())


def test_penultimate_output_matches_transformers(reference, encoder):
    input_ids = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (2, 77)).astype(np.int32)
    input_ids[:, 20:] = 0
    with torch.no_grad():
        states = reference(torch.from_numpy(input_ids).long(), output_hidden_states=True).hidden_states
        expected = reference.final_layer_norm(states[-2])
    actual = jitted(encoder)(input_ids)
    assert actual.shape == (2, 77, CONFIG.hidden_size)
    assert relative_error(actual, expected) < TOLERANCE


def test_tokens_see_only_the_past(encoder):
    run = jitted(encoder)
    first = np.arange(77, dtype=np.int32)[None]
    second = first.copy()
    second[:, 40:] = 7
    before, after = np.split(np.abs(run(first) - run(second)).max(axis=(0, 2)), [40])
    assert before.max() == 0
    assert after.max() > 0.01


def test_full_size_parameters():
    model = nnx.eval_shape(lambda: CLIPTextEncoder.from_config(TextEncoderConfig(), rngs=nnx.Rngs(0)))
    sizes = parameter_sizes(model)
    with torch.device("meta"):
        expected = torch_encoder(TextEncoderConfig())
    assert len(sizes) == len(expected.state_dict())
    assert sum(sizes) == sum(tensor.numel() for tensor in expected.state_dict().values()) == 352_984_064
