"""Token layout, the byte-level vocabulary, and what a user is told about a damaged tokenizer folder."""

import json

import numpy as np
import pytest

from star_jax.errors import InputError
from star_jax.models.clip.tokenizer import load_tokenizer, tokenize, write_byte_level_tokenizer
from star_jax.presets import PRESETS

START, END = 512, 513


@pytest.fixture
def directory(tmp_path):
    write_byte_level_tokenizer(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_rows_are_start_tokens_end_zeros(directory):
    ids = tokenize(load_tokenizer(directory), ["ab c", ""])
    a, b, c = (ord(letter) - ord("!") for letter in "abc")
    assert ids.shape == (2, 77)
    assert ids.dtype == np.int32
    assert ids[0].tolist() == [START, a, b + 256, c + 256, END] + [0] * 72
    assert ids[1].tolist() == [START, END] + [0] * 75


def test_long_prompts_are_cut_before_the_end_token(directory):
    tokenizer = load_tokenizer(directory)
    ids = tokenize(tokenizer, ["x" * 100, "x" * 75], max_length=77)
    x = ord("x") - ord("!")
    assert ids[0].tolist() == [START] + [x] * 75 + [END]
    assert ids[1].tolist() == [START] + [x] * 74 + [x + 256, END]
    assert tokenize(tokenizer, ["abcdef"], max_length=4)[0].tolist() == [START, x - 23, x - 22, END]


def test_every_text_has_tokens_of_the_tiny_vocabulary(directory):
    tokenizer = load_tokenizer(directory)
    assert len(tokenizer) == PRESETS["tiny"].text_encoder.vocab_size == 514
    ids = tokenize(tokenizer, ["Été à 日本, 😀 it's 4K!\tOK"])[0]
    text = ids[1 : ids.tolist().index(END)]
    assert text.min() >= 0
    assert text.max() < START
    assert tokenizer.decode(text.tolist()) == "été à 日本 , 😀 it 's 4 k ! ok"


def test_merges_are_applied(directory):
    vocab = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
    vocab |= {"ab": 514, "abc</w>": 515}
    (directory / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (directory / "merges.txt").write_text("#version: 0.2\na b\nab c</w>\n", encoding="utf-8")
    assert tokenize(load_tokenizer(directory), ["abc"])[0, :3].tolist() == [START, 515, END]


def test_what_transformers_saves_is_read(directory, tmp_path):
    load_tokenizer(directory).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "vocab.json").exists()
    prompts = ["a photo - realistic, 32k", "Ü"]
    ids = tokenize(load_tokenizer(tmp_path / "saved"), prompts)
    np.testing.assert_array_equal(ids, tokenize(load_tokenizer(directory), prompts))


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_missing_file(directory, name):
    (directory / name).unlink()
    with pytest.raises(InputError, match=rf"tokenizer in .* has no {name}; copy vocab.json"):
        load_tokenizer(directory)


def test_missing_directory(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        load_tokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", "{", "cannot be read (Error while initializing BPE: EOF"),
        ("vocab.json", "[1]", "Bad vocabulary json file"),
        ("vocab.json", '{"a": 0}', "has no <|startoftext|>"),
        ("vocab.json", '{"a": 0, "<|endoftext|>": 1}', "has no <|startoftext|>"),
        ("merges.txt", "a b\n", "Token `ab` out of vocabulary"),
        ("merges.txt", "a\n", "Merges text file invalid at line 1"),
        ("tokenizer.json", '{"model": null}', "cannot be read"),
        ("tokenizer.json", "{", "cannot be read"),
    ],
)
def test_damaged_file(directory, name, content, message):
    (directory / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_tokenizer(directory)
    assert message in str(caught.value) and str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)
