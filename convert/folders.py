"""File names of folders in Hugging Face's layout."""

from star_jax.errors import InputError

OPEN_CLIP_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
SENTENCEPIECE_FILE = "spiece.model"  # T5's
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
# File names of Hugging Face's libraries, best first; the index names the shards of a large model.
PREFERRED_FILES = tuple(
    name
    for stem in (
        "diffusion_pytorch_model",
        "model",
        "pytorch_model",
        "open_clip_model",
        "open_clip_pytorch_model",
    )
    for name in (
        f"{stem}.safetensors.index.json",
        f"{stem}.safetensors",
        f"{stem}.safetensors.index.fp16.json",
        f"{stem}.fp16.safetensors",
        f"{stem}.bin.index.json",
        f"{stem}.bin",
        f"{stem}.fp16.bin",
    )
)
PIPELINE_INDEX = "model_index.json"  # marks the folder of a pipeline
PIPELINE_FOLDERS = ("unet", "transformer", "vae", "text_encoder", "tokenizer")


def choose_weights(names: list[str], label: str) -> str | None:
    """Chooses the file of weights to read among a folder's files; None if there is none.

    Raises:
      InputError: there are several, and none has a preferred name.
    """
    for name in PREFERRED_FILES:
        if name in names:
            return name
    weights = [name for name in names if name.endswith(WEIGHT_SUFFIXES)]
    if len(weights) > 1:
        raise InputError(
            f"{label} holds several files of weights ({', '.join(weights[:4])}); name one of them"
        )
    return weights[0] if weights else None


def tokenizer_files(names: list[str]) -> list[str]:
    """The files of a CLIP or T5 tokenizer among a folder's files; empty if there is no tokenizer."""
    for files in (["vocab.json", "merges.txt"], ["tokenizer.json"], [SENTENCEPIECE_FILE]):
        if all(name in names for name in files):
            return files
    return []


def needed_files(names: list[str], label: str) -> list[str]:
    """The files of a folder to download: those of a tokenizer, and the weights with the shards of an index.

    Raises:
      InputError: there are several files of weights, and none has a preferred name.
    """
    weights = choose_weights(names, label)
    shards = []
    if weights is not None and ".index." in weights:
        prefix = weights.split(".")[0] + (".fp16-" if ".fp16." in weights else "-")
        shards = [name for name in names if name.startswith(prefix)]
    return tokenizer_files(names) + ([weights] if weights else []) + shards
