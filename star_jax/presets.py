"""Presets: named sizes of models."""

import dataclasses

from star_jax.config import (
    ArchitectureConfig,
    SamplingConfig,
    StarConfig,
    TextEncoderConfig,
    UNetConfig,
    VAEConfig,
)
from star_jax.config.cogvideox import (
    CausalVAEConfig,
    CogVideoXConfig,
    CogVideoXSampling,
    T5Config,
    TransformerConfig,
    ZeroSNRConfig,
)
from star_jax.errors import InputError

BUNDLED = "tiny-star"  # name of the checkpoint in the package and of its preset

_GOLDEN_UNET = UNetConfig(
    block_out_channels=(32, 64, 128, 128), attention_head_dim=16, transformer_in_heads=2
)
_TINY_UNET = UNetConfig(
    block_out_channels=(16, 32, 32, 32),
    attention_levels=(False, True, True, False),
    layers_per_block=1,
    attention_head_dim=32,  # one head, because on a CPU the exponentials of every head dominate attention's cost
    transformer_in_heads=1,
    cross_attention_dim=64,
    norm_num_groups=8,
)
_TINY_VAE = VAEConfig(block_out_channels=(16, 32, 32, 32), layers_per_block=1, norm_num_groups=8)
_TINY_TEXT = TextEncoderConfig(
    vocab_size=514, hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4
)
_TINY_STAR_UNET = UNetConfig(
    in_channels=16,
    out_channels=16,
    block_out_channels=(48, 48, 64, 64),
    attention_levels=(False, True, False, False),
    layers_per_block=1,
    attention_head_dim=16,
    transformer_in_heads=2,
    cross_attention_dim=16,
    norm_num_groups=1,
    dropout=0.0,
)
_TINY_STAR_VAE = VAEConfig(
    latent_channels=16, block_out_channels=(16, 16, 32, 64), layers_per_block=1, norm_num_groups=2
)

_TINY_COGVIDEOX = CogVideoXConfig(
    "tiny-cogvideox",
    transformer=TransformerConfig(
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        time_embed_dim=32,
        text_embed_dim=32,
        text_length=32,
        grid=(3, 4, 6),
        lora_rank=4,
    ),
    vae=CausalVAEConfig(block_out_channels=(16, 16, 16, 32), layers_per_block=1, norm_num_groups=4),
    text_encoder=T5Config(
        vocab_size=259,
        hidden_size=32,
        head_dim=8,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
    ),
    sampling=CogVideoXSampling(4),
)

PRESETS: dict[str, ArchitectureConfig] = {
    # The released networks: 2.04 B parameters, SVD's VAE, OpenCLIP ViT-H/14.
    "i2vgen-xl": StarConfig("i2vgen-xl"),
    # The same architecture, small in every part and without attention on the finest level, so that it runs on a
    # laptop's CPU. It has byte-level tokens instead of CLIP's vocabulary.
    "tiny": StarConfig("tiny", unet=_TINY_UNET, vae=_TINY_VAE, text_encoder=_TINY_TEXT),
    # Small enough to train on a CPU (configs/tiny_star.py). Its latents have more channels, it reads no text, and
    # its norms have one or two groups, which keep more of a picture's contrast.
    "tiny-star": StarConfig(
        "tiny-star",
        unet=_TINY_STAR_UNET,
        vae=_TINY_STAR_VAE,
        text_encoder=None,
        sampling=SamplingConfig(1, guidance_scale=1.0, color_fix="flat-wavelet", decode_overlap=1),
    ),
    # The network of the parity numbers in tests/golden, with the original's text width.
    "tiny-golden": StarConfig(
        "tiny-golden",
        unet=_GOLDEN_UNET,
        vae=_TINY_VAE,
        text_encoder=dataclasses.replace(_TINY_TEXT, hidden_size=1024, num_attention_heads=16),
    ),
    # STAR on CogVideoX: 5.57 B and 1.73 B parameters, the causal autoencoder, and T5 XXL.
    "cogvideox-5b": CogVideoXConfig("cogvideox-5b"),
    "cogvideox-2b": CogVideoXConfig(
        "cogvideox-2b",
        transformer=TransformerConfig(num_layers=30, num_attention_heads=30, positions="sincos"),
        vae=CausalVAEConfig(scaling_factor=1.15258426),
        diffusion=ZeroSNRConfig(snr_shift=3.0),
    ),
    # The same architecture for a laptop's CPU, with trainable low-rank updates and one token per byte.
    "tiny-cogvideox": _TINY_COGVIDEOX,
}

_COGVIDEOX_PARTS = "vae, text_encoder and tokenizer of https://huggingface.co/THUDM/CogVideoX-"
# Sources of each preset's weights: the files to download, and the command that converts them to checkpoint {name}.
_WEIGHTS = {
    "i2vgen-xl": (
        "STAR's light_deg.pt or heavy_deg.pt of https://huggingface.co/SherryX/STAR, with a VAE and a text tower: "
        "star-jax convert heavy_deg.pt svd/vae open_clip/ {name} --dtype bfloat16"
    ),
    "cogvideox-5b": (
        "STAR's file (https://huggingface.co/SherryX/STAR, folder CogVideoX-5B-based, 43 GB), "
        + _COGVIDEOX_PARTS
        + "5b: star-jax convert mp_rank_00_model_states.pt vae text_encoder tokenizer {name} --dtype bfloat16"
    ),
    "cogvideox-2b": (
        _COGVIDEOX_PARTS
        + "2b with its transformer, where training starts: star-jax convert transformer vae text_encoder tokenizer "
        "{name} --lora 512 (STAR's own weights of that size are not published)"
    ),
}


def weights_remedy(name: str) -> str | None:
    """Remedy for a missing checkpoint that is named like a preset (or star-PRESET); None for any other name.

    Presets without published weights can be made with random weights.
    """
    preset = next((preset for preset in (name, name.removeprefix("star-")) if preset in PRESETS), None)
    if preset is None:
        return None
    if preset in _WEIGHTS:
        return "its weights: " + _WEIGHTS[preset].format(name=name)
    return f"make one with random weights to train or try: star-jax convert random:{preset} {name}"


def get_preset(name: str) -> ArchitectureConfig:
    """Returns a named preset.

    Raises:
      InputError: no preset has that name.
    """
    if name not in PRESETS:
        raise InputError(f"preset is {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
