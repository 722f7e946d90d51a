"""T5's encoder against transformers'."""

import jax
import numpy as np
import pytest
import torch
from cogvideox_golden import filled
from flax import nnx
from torch_weights import parameter_sizes, randomize, relative_error
from transformers import T5Config as TorchConfig
from transformers import T5EncoderModel

from star_jax.config.cogvideox import T5Config
from star_jax.convert.t5_tables import t5_table
from star_jax.models.t5.encoder import T5Encoder, relative_buckets

CONFIG = T5Config(
    vocab_size=64,
    hidden_size=32,
    head_dim=8,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
)


def torch_encoder(config: T5Config) -> T5EncoderModel:
    return T5EncoderModel(
        TorchConfig(
            vocab_size=config.vocab_size,
            d_model=config.hidden_size,
            d_kv=config.head_dim,
            d_ff=config.intermediate_size,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
    )


def abstract_encoder(config: T5Config) -> T5Encoder:
    return nnx.eval_shape(lambda: T5Encoder(config, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("length", [7, 226])
def test_encoder_matches_transformers(length):
    reference = randomize(torch_encoder(CONFIG), seed=0)
    module = abstract_encoder(CONFIG)
    state = {key: tensor.numpy() for key, tensor in reference.state_dict().items()}
    params = filled(t5_table(CONFIG), state, "text_encoder", module)
    graphdef, _ = nnx.split(module)
    ids = np.random.default_rng(1).integers(0, 64, (2, length))
    ids[0, 4:] = 0  # padding, which is attended to
    with torch.no_grad():
        expected = reference(torch.from_numpy(ids)).last_hidden_state.numpy()
    actual = jax.jit(lambda params, ids: nnx.merge(graphdef, params)(ids))(params, ids.astype(np.int32))
    assert relative_error(actual, expected) < 1e-5


def test_buckets_are_the_originals():
    attention = torch_encoder(CONFIG).encoder.block[0].layer[0].SelfAttention
    distance = torch.arange(300)[None, :] - torch.arange(300)[:, None]
    expected = attention._relative_position_bucket(
        distance, bidirectional=True, num_buckets=32, max_distance=128
    )
    np.testing.assert_array_equal(relative_buckets(300, 32, 128), expected.numpy())


def test_full_size():
    assert sum(parameter_sizes(abstract_encoder(T5Config()))) == 4_762_310_656
