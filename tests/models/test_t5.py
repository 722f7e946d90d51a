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
from star_jax.convert.tokenizers import write_tokenizer
from star_jax.errors import InputError
from star_jax.models.t5.encoder import T5Encoder, relative_buckets
from star_jax.models.t5.tokenizer import (
    BYTE_LEVEL_VOCABULARY,
    load_tokenizer,
    tokenize,
    write_byte_level_tokenizer,
)
from star_jax.presets import get_preset

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
    params = filled(t5_table(CONFIG, state), state, "text_encoder", module)
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


def write_sentencepiece(path) -> None:
    """A vocabulary of a few pieces in SentencePiece's format."""
    from transformers.utils.sentencepiece_model_pb2_new import ModelProto

    model = ModelProto()
    pieces = [
        ("<pad>", 3),
        ("</s>", 3),
        ("<unk>", 2),
        *((piece, 1) for piece in ("▁a", "▁cat", "c", "a", "t", "▁")),
    ]
    for i, (piece, kind) in enumerate(pieces):
        entry = model.pieces.add()
        entry.piece, entry.score, entry.type = piece, -float(i), kind
    model.trainer_spec.unk_id, model.trainer_spec.model_type = 2, 1
    path.write_bytes(model.SerializeToString())


def test_tokens_of_a_sentencepiece_vocabulary(tmp_path):
    (tmp_path / "source").mkdir()
    write_sentencepiece(tmp_path / "source" / "spiece.model")
    write_tokenizer(tmp_path / "source", tmp_path / "made", get_preset("cogvideox-5b"))
    tokenizer = load_tokenizer(tmp_path / "made")
    assert len(tokenizer) == 109  # and 100 extra ones
    ids = tokenize(tokenizer, ["a cat", "", "cat a cat a cat"], max_length=4)
    np.testing.assert_array_equal(ids, [[3, 4, 1, 0], [1, 0, 0, 0], [4, 3, 4, 1]])
    (tmp_path / "source" / "spiece.model").write_bytes(b"\x00 not one")
    with pytest.raises(InputError, match="is not a SentencePiece vocabulary"):
        write_tokenizer(tmp_path / "source", tmp_path / "again", get_preset("cogvideox-5b"))


def test_tokens_are_bytes_where_there_is_no_vocabulary(tmp_path):
    write_byte_level_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert len(tokenizer) == BYTE_LEVEL_VOCABULARY
    assert tokenizer.decode(tokenize(tokenizer, ["a cat"], 9)[0][:5]) == "a cat"
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(tmp_path)
    with pytest.raises(InputError, match=r"has no tokenizer\.json; copy"):
        load_tokenizer(tmp_path / "nowhere")
