"""The diffusion transformer of CogVideoX against the original's numbers and diffusers' module."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cogvideox_golden import GOLDEN, filled, transformer_config, transformer_state
from diffusers import CogVideoXTransformer3DModel
from flax import nnx
from torch_weights import parameter_sizes, relative_error

from star_jax.config import LiemConfig
from star_jax.config.cogvideox import TransformerConfig
from star_jax.convert.cogvideox_tables import star_cogvideox_table
from star_jax.errors import InputError
from star_jax.models.cogvideox.positions import rotary_tables, sincos_table
from star_jax.models.cogvideox.transformer import Block, CogVideoXTransformer, Tokens
from star_jax.models.layers import timestep_embedding

TOLERANCE = 1e-5
NO_LIEM = LiemConfig(spatial=False, temporal=False)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "cogvideox_dit.npz"))


def inputs(golden, kind: str, case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents [B, F, h, w, 32], timesteps and context; those of `sincos` are those of `rope` where left out."""
    x, t, context = (
        golden.get(f"{kind}/{case}/{name}", golden[f"rope/{case}/{name}"]) for name in ("x", "t", "context")
    )
    return np.moveaxis(x, 2, -1), t.astype(np.int32), context


@functools.cache
def build(config: TransformerConfig, kind: str, **kwargs):
    """The jitted network of the golden weights, and its parameters."""
    module = nnx.eval_shape(lambda: CogVideoXTransformer(config, rngs=nnx.Rngs(0), **kwargs))
    state = transformer_state(config, kind)
    if not config.liem.spatial:
        state = {key: array for key, array in state.items() if "_local." not in key}
    params = filled(star_cogvideox_table(config, state), state, "transformer", module)
    graphdef, _ = nnx.split(module)
    return jax.jit(lambda params, *args: nnx.merge(graphdef, params)(*args)), params


def channels_first(video) -> np.ndarray:
    return np.moveaxis(np.asarray(video), -1, 2)


@pytest.mark.parametrize(
    ("kind", "case", "rank"),
    [("rope", "a", 0), ("rope", "a", 8), ("rope", "b", 0), ("sincos", "a", 0), ("sincos", "b", 8)],
)
def test_whole_network(golden, kind, case, rank):
    run, params = build(transformer_config(kind, case, rank), kind)
    out = run(params, *inputs(golden, kind, case))
    assert relative_error(channels_first(out), golden[f"{kind}/{case}/out"]) < TOLERANCE  # about 4e-7


@pytest.mark.parametrize("kind", ["rope", "sincos"])
def test_without_liem_and_in_diffusers(golden, kind):
    """The documented differences: diffusers has no LIEM, and another epsilon in the last norm."""
    config = dataclasses.replace(transformer_config(kind), liem=NO_LIEM)
    run, params = build(config, kind)
    latents, timesteps, context = inputs(golden, kind, "a")
    out = channels_first(run(params, latents, timesteps, context))
    assert relative_error(out, golden[f"{kind}/a/out_without_liem"]) < TOLERANCE

    model = CogVideoXTransformer3DModel(
        num_attention_heads=config.num_attention_heads,
        attention_head_dim=config.attention_head_dim,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        time_embed_dim=config.time_embed_dim,
        text_embed_dim=config.text_embed_dim,
        num_layers=config.num_layers,
        sample_width=12,
        sample_height=8,
        sample_frames=17,
        max_text_seq_length=config.text_length,
        use_rotary_positional_embeddings=config.positions == "rotary",
    ).eval()
    model.load_state_dict(diffusers_state(params, config), strict=True)
    model.norm_out.norm.eps = 1e-6
    cosines, sines = map(torch.from_numpy, rotary_tables(config, (3, 4, 6)))
    with torch.no_grad():
        expected = model(
            torch.from_numpy(channels_first(latents).copy()),
            torch.from_numpy(context),
            torch.from_numpy(timesteps),
            image_rotary_emb=(cosines, sines) if config.positions == "rotary" else None,
        ).sample
    assert relative_error(out, expected.numpy()) < TOLERANCE


def diffusers_state(params: dict, config: TransformerConfig) -> dict[str, torch.Tensor]:
    """Our parameters under diffusers' names."""
    from star_jax.checkpoints.trees import flatten
    from star_jax.convert.cogvideox_tables import diffusers_cogvideox_table

    leaves = flatten(params)
    state = {}
    for rule in diffusers_cogvideox_table(config, ()).rules:
        leaf = np.asarray(leaves[rule.target.removeprefix("transformer/")])
        array = rule.layout.to_torch(leaf if rule.layer is None else leaf[rule.layer])
        if rule.source == "patch_embed.proj.weight":  # the table is CogVideoX's own, of half the channels
            array = np.moveaxis(leaf, (-1, -2), (0, 1))
        state[rule.source] = torch.from_numpy(np.array(array))
    return state


@pytest.fixture(scope="module")
def first_block():
    """The first layer of the golden network with its weights, as (jitted function, weights)."""
    config = transformer_config("rope")
    block = nnx.eval_shape(
        lambda: Block(config, "auto", dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    )
    _, params = build(config, "rope")
    graphdef, _ = nnx.split(block)
    weights = jax.tree.map(lambda leaf: leaf[0], params["transformer_blocks"])
    return lambda method: jax.jit(lambda *args: method(nnx.merge(graphdef, weights), *args))


def test_time_and_positions(golden):
    config = transformer_config("rope")
    np.testing.assert_allclose(
        timestep_embedding(golden["rope/a/t"], config.width),
        golden["rope/a/act/timestep_embedding"],
        atol=1e-4,
    )
    for ours, name in zip(rotary_tables(config, config.grid), ("rope_cos", "rope_sin"), strict=True):
        np.testing.assert_allclose(ours, golden[f"rope/a/{name}"], atol=1e-6)
    config = transformer_config("sincos")
    table = golden["sincos/a/pos_embedding"][0]
    assert not table[: config.text_length].any()
    np.testing.assert_allclose(sincos_table(config, config.grid), table[config.text_length :], atol=1e-6)


def test_block(golden, first_block):
    act = {name.removeprefix("rope/a/act/"): x for name, x in golden.items() if "/act/" in name}
    text, video = np.split(act["block0/in"], [7], axis=1)
    tokens = Tokens(text, video.reshape(2, 3, 4, 6, 64))
    tables = rotary_tables(transformer_config("rope"), (3, 4, 6))
    out = first_block(lambda block, *args: block(*args).join())(tokens, act["time_embed"], tables)
    assert relative_error(out, act["block0/out"]) < TOLERANCE

    # LIEM's goldens: [frames, C, h, w], then [pixels, frames, C].
    spatial = np.moveaxis(act["block0/spatial_liem/in"], 1, -1)
    gated = np.asarray(first_block(lambda block, x: block.spatial_liem(x))(spatial))
    assert relative_error(np.moveaxis(gated, -1, 1), act["block0/spatial_liem/out"]) < TOLERANCE
    gated = np.asarray(first_block(lambda block, x: block.temporal_liem(x))(gated)).reshape(2, 3, 24, 64)
    expected = act["block0/temporal_liem/out"].reshape(2, 24, 3, 64).swapaxes(1, 2)
    assert relative_error(gated, expected) < TOLERANCE

    attend = first_block(lambda block, *args: block.attn1(*args))
    assert relative_error(attend(act["block0/attention/in"], tables), act["block0/attention/out"]) < TOLERANCE


def test_merged_update(golden):
    config = transformer_config("rope")
    _, params = build(config, "rope")
    attention = jax.tree.map(lambda leaf: np.asarray(leaf[0]), params["transformer_blocks"]["attn1"])
    fused = np.concatenate([attention[name]["kernel"].T for name in ("to_q", "to_k", "to_v")])
    assert relative_error(fused, golden["lora/layer0/query_key_value/merged_weight"]) < 1e-6
    assert relative_error(attention["to_out"]["kernel"].T, golden["lora/layer0/dense/merged_weight"]) < 1e-6


def test_other_grids():
    config = transformer_config("rope")
    exact = dataclasses.replace(config, other_grids="exact")
    np.testing.assert_array_equal(rotary_tables(exact, (2, 4, 6)), rotary_tables(config, (2, 4, 6)))
    with pytest.raises(
        InputError, match="positions for 4x6 tokens of up to 5 latents, got 8x6 of 2; choose tiles"
    ):
        rotary_tables(exact, (2, 8, 6))
    with pytest.raises(InputError, match="got 4x6 of 6"):
        sincos_table(dataclasses.replace(exact, positions="sincos"), (6, 4, 6))
    wide = rotary_tables(dataclasses.replace(config, other_grids="interpolated"), (2, 8, 12))[0]
    own = rotary_tables(config, (2, 4, 6))[0]
    np.testing.assert_allclose(  # every second row and column lies where the own grid has one
        wide.reshape(2, 8, 12, 16)[:, ::2, ::2], own.reshape(2, 4, 6, 16), atol=1e-6
    )
    with pytest.raises(InputError, match="choose one of exact, interpolated, extrapolated"):
        dataclasses.replace(config, other_grids="guessed")


def test_gradients_are_finite_and_the_same_rematerialised():
    """Without optimisations LIEM's maximum is rounded twice, differently: its gradient must not mind."""
    config = TransformerConfig(
        num_layers=2,
        num_attention_heads=1,
        attention_head_dim=16,
        time_embed_dim=8,
        text_embed_dim=8,
        text_length=2,
    )
    latents = np.random.default_rng(0).standard_normal((1, 2, 4, 4, 32)).astype(np.float32)
    context = np.random.default_rng(1).standard_normal((1, 2, 8)).astype(np.float32)

    def gradients(remat: str) -> list[jax.Array]:
        graphdef, state = nnx.split(CogVideoXTransformer(config, remat=remat, rngs=nnx.Rngs(0)))

        def loss(params):
            return jnp.square(nnx.merge(graphdef, params)(latents, np.array([500]), context)).mean()

        return jax.tree.leaves(jax.jit(jax.grad(loss))(nnx.to_pure_dict(state)))

    for ours, kept in zip(gradients("full"), gradients("none"), strict=True):
        assert jnp.isfinite(kept).all()
        np.testing.assert_allclose(ours, kept, rtol=1e-3, atol=1e-6)


def test_full_sizes():
    big = TransformerConfig()
    small = TransformerConfig(num_layers=30, num_attention_heads=30, positions="sincos")
    for config, count in ((big, 5_570_680_488 - 196_608), (small, 1_728_039_672)):
        module = nnx.eval_shape(lambda config=config: CogVideoXTransformer(config, rngs=nnx.Rngs(0)))
        assert sum(parameter_sizes(module)) == count
