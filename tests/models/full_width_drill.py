"""CogVideoX's networks at their published widths, which the suite has no time for.

  python tests/models/full_width_drill.py block-5b block-2b autoencoder
  python tests/models/full_width_drill.py network-2b 9 240 352

A block and the whole autoencoder are compared with diffusers' modules on few tokens and pixels, random weights.
`network-*` runs a whole network once, FRAMES HEIGHT WIDTH, with the weights of one layer in memory at a time.
"""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

sys.path.insert(0, str(Path(__file__).parents[1]))
from torch_weights import randomize, relative_error

from star_jax.checkpoints.trees import flatten, unflatten
from star_jax.config import LiemConfig
from star_jax.config.cogvideox import TransformerConfig
from star_jax.convert.cogvideox_tables import diffusers_cogvideox_table
from star_jax.convert.cogvideox_vae_tables import diffusers_cogvideox_vae_table
from star_jax.models.cogvideox.positions import rotary_tables
from star_jax.models.cogvideox.transformer import Block, CogVideoXTransformer, Tokens
from star_jax.models.cogvideox.vae import AutoencoderKLCogVideoX
from star_jax.models.rngs import InitRngs
from star_jax.presets import get_preset

FLOAT32 = {"dtype": jnp.float32, "param_dtype": jnp.float32}
GRID = (2, 4, 6)


def block(preset: str) -> float:
    """A block without LIEM, text and 48 video tokens."""
    from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock

    config = get_preset(preset).transformer
    config = TransformerConfig(
        num_attention_heads=config.num_attention_heads,
        positions=config.positions,
        liem=LiemConfig(spatial=False, temporal=False),
    )
    reference = randomize(
        CogVideoXBlock(config.width, config.num_attention_heads, 64, 512, attention_bias=True), seed=0
    ).eval()
    state, weights = reference.state_dict(), {}
    for rule in diffusers_cogvideox_table(config, ()).rules:
        if rule.layer == 0:
            source = state.pop(rule.source.removeprefix("transformer_blocks.0.")).numpy()
            path = rule.target.removeprefix("transformer/transformer_blocks/")
            weights[path] = np.ascontiguousarray(rule.layout.to_jax(source))
    assert not state
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: Block(config, "auto", **FLOAT32, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    text, video, temb = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((1, 226, config.width), (1, *GRID, config.width), (1, 512))
    )
    rotary = rotary_tables(config, GRID) if config.positions == "rotary" else None
    run = jax.jit(lambda weights, *args: nnx.merge(graphdef, weights)(*args).join())
    ours = run(unflatten(weights), Tokens(text, video), temb, rotary)
    with torch.no_grad():
        expected = reference(
            torch.from_numpy(video.reshape(1, -1, config.width)),
            torch.from_numpy(text),
            torch.from_numpy(temb),
            image_rotary_emb=None if rotary is None else tuple(map(torch.from_numpy, rotary)),
        )
    return relative_error(ours, torch.cat(expected[::-1], 1).numpy())


def autoencoder() -> float:
    """Encode 9 frames of 16x16 pixels and decode 3 latents, at once and in bands; the largest error."""
    from diffusers import AutoencoderKLCogVideoX as TorchVAE

    config = get_preset("cogvideox-5b").vae
    reference = randomize(TorchVAE(block_out_channels=config.block_out_channels, layers_per_block=3), seed=1)
    state = reference.eval().state_dict()
    weights = {
        rule.target.removeprefix("vae/"): np.ascontiguousarray(rule.layout.to_jax(state[rule.source].numpy()))
        for rule in diffusers_cogvideox_vae_table(config, ()).rules
    }
    module = nnx.eval_shape(lambda: AutoencoderKLCogVideoX(config, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(module)[0], unflatten(weights)
    rng = np.random.default_rng(1)
    clip = rng.standard_normal((1, 9, 16, 16, 3)).astype(np.float32)
    latents = rng.standard_normal((1, 3, 2, 2, 16)).astype(np.float32)

    def run(call: Callable, x: np.ndarray) -> np.ndarray:
        jax.config.update("jax_disable_most_optimizations", True)
        return np.asarray(jax.jit(lambda params, x: call(nnx.merge(graphdef, params), x))(params, x))

    def first(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.moveaxis(x, -1, 1).copy())

    with torch.no_grad():
        moments = reference.encode(first(clip)).latent_dist.mean.numpy()
        frames = reference.decode(first(latents)).sample.numpy()
    calls = [
        (lambda vae, x: vae.encode(x).mean, clip, moments),
        (lambda vae, x: vae.encode(x, stretch_pixels=2 * 16 * 16).mean, clip, moments),
        (lambda vae, x: vae.decode_group(x, band_pixels=None)[0], latents, frames),
        (lambda vae, x: vae.decode_group(x, band_pixels=9 * 16 * 4)[0], latents, frames),
    ]
    return max(relative_error(np.moveaxis(run(call, x), -1, 1), expected) for call, x, expected in calls)


def network(preset: str, frames: int, height: int, width: int) -> float:
    """One evaluation in float32, layer by layer; returns the deviation of the velocity, which must be finite."""
    config = get_preset(preset).transformer
    rng = np.random.default_rng(2)
    latents = rng.standard_normal((1, (frames - 1) // 4 + 1, height // 8, width // 8, 32)).astype(np.float32)
    context = rng.standard_normal((1, 226, config.text_embed_dim)).astype(np.float32)
    shell = CogVideoXTransformer(
        TransformerConfig(
            num_layers=1, num_attention_heads=config.num_attention_heads, positions=config.positions
        ),
        rngs=InitRngs(0),
    )
    tokens = shell.patch_embed(latents, context)
    temb = shell.time_embedding(np.array([500], np.int32))
    rotary = None
    if config.positions == "rotary":
        rotary = rotary_tables(config, tokens.video.shape[1:4])
    one = nnx.eval_shape(lambda: Block(config, "auto", **FLOAT32, rngs=nnx.Rngs(0)))
    graphdef, abstract = nnx.split(one)
    shapes = flatten(nnx.to_pure_dict(abstract))
    run = jax.jit(lambda weights, *args: nnx.merge(graphdef, weights)(*args), donate_argnums=1)
    for layer in range(config.num_layers):
        start = time.perf_counter()
        weights = {
            path: rng.standard_normal(leaf.shape, np.float32) / np.sqrt(np.float32(np.prod(leaf.shape[:-1])))
            for path, leaf in shapes.items()
        }
        tokens = jax.block_until_ready(run(unflatten(weights), tokens, temb, rotary))
        print(f"  layer {layer + 1} of {config.num_layers}: {time.perf_counter() - start:.1f} s", flush=True)
    velocity = np.asarray(shell.proj_out(shell.norm_out(shell.norm_final(tokens.video), temb)))
    assert np.isfinite(velocity).all()
    return float(velocity.std())


def main(arguments: list[str]) -> None:
    names = [name for name in arguments if not name.isdigit()]
    sizes = [int(size) for size in arguments if size.isdigit()]
    for name in names:
        kind, _, variant = name.partition("-")
        start = time.perf_counter()
        if kind == "autoencoder":
            found = f"relative error {autoencoder():.1e}"
        elif kind == "block":
            found = f"relative error {block(f'cogvideox-{variant}'):.1e}"
        else:
            found = f"deviation {network(f'cogvideox-{variant}', *sizes):.2f}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name}: {found}, {time.perf_counter() - start:.0f} s, {peak:.1f} GiB at most", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
