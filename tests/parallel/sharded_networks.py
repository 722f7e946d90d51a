"""Run by test_activation_sharding.py on 8 simulated devices: prints JSON, relative error by case."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from quick_programs import collect_garbage_seldom
from random_trees import random_tree
from two_levels import TWO_LEVELS as CONFIG

from star_jax.benchmark.aot.hlo import read_program
from star_jax.diffusion.losses import LossConfig, frequency_loss
from star_jax.models.architectures import build_model
from star_jax.models.resnet import ResnetBlock
from star_jax.models.whole_weights import run_block
from star_jax.ops.attention import AttentionKernels, dot_product_attention
from star_jax.ops.convolution import convolve_frames
from star_jax.ops.platform import targeting
from star_jax.ops.tokens import clip_to_tokens, frames_to_tokens, tokens_to_clip, tokens_to_frames
from star_jax.parallel.activations import split_frames
from star_jax.parallel.weights import constrain_params, param_shardings


def on_mesh(sizes, fn, *arguments):
    mesh = jax.make_mesh(sizes, ("data", "fsdp", "context"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        return jax.tree.map(np.asarray, jax.jit(fn)(*arguments))


def error(result, expected) -> float:
    pairs = zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True)
    return max(float(np.abs(r - e).max() / np.abs(e).max()) for r, e in pairs)


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def velocity_errors() -> dict[str, float]:
    model = build_model(CONFIG, kernels=AttentionKernels("chunked", "chunked", "xla"))
    params = {name: random_tree(model.abstract(name)) for name in model.network_components}
    fn = partial(model.velocity, params)
    latents, hint = normal(1, 2, 6, 10, 8, 4), normal(2, 2, 6, 10, 8, 4)  # 6 frames do not divide by 4
    arguments = latents, jnp.array([300, 700]), normal(3, 2, 5, CONFIG.unet.cross_attention_dim), hint
    return {"velocity": error(on_mesh((2, 1, 4), fn, *arguments), jax.jit(fn)(*arguments))}


def vae_errors() -> dict[str, float]:
    model = build_model(CONFIG)
    vae = model.bind({"vae": random_tree(model.abstract("vae"), scale=0.2)}, "vae")

    def encode(frames):
        return vae.encode(frames).mean

    def decode(latents):
        return vae.decode(latents)

    frames, latents = normal(4, 1, 3, 8, 16, 3), normal(5, 2, 3, 4, 8, 4)
    return {
        "encode, one clip": error(on_mesh((2, 1, 4), encode, frames), jax.jit(encode)(frames)),
        "decode": error(on_mesh((1, 2, 4), decode, latents), jax.jit(decode)(latents)),
    }


def attention_errors() -> dict[str, float]:
    def gradients(split_queries, q, k, v):
        def loss(q, k, v):
            out = dot_product_attention(q, k, v, implementation="chunked", split_queries=split_queries)
            return jnp.sum(jnp.sin(out))

        return jax.grad(loss, argnums=(0, 1, 2))(q, k, v)

    errors = {}
    for split_queries, batch in ((False, 12), (True, 2)):
        q = normal(6, batch, 30, 2, 16)
        k, v = normal(7, batch, 9, 2, 16), normal(8, batch, 9, 2, 16)
        fn = partial(gradients, split_queries)
        errors[f"attention gradients, split_queries={split_queries}"] = error(
            on_mesh((2, 1, 4), fn, q, k, v), jax.jit(fn)(q, k, v)
        )
    return errors


def convolution_errors() -> dict[str, float]:
    """Along frames, against the plane on one device: values and gradients."""

    def gradients(columns, x, kernel):
        def loss(x, kernel):
            out = convolve_frames(x, kernel, columns=columns)
            return jnp.sum(jnp.sin(out)), out

        gradient, out = jax.grad(loss, argnums=(0, 1), has_aux=True)(x, kernel)
        return out, gradient

    errors = {}
    for columns, shape in ((False, (2, 5, 3, 4, 6)), (False, (1, 8, 3, 4, 6)), (True, (1, 3, 2, 7, 6))):
        x, kernel = normal(9, *shape), normal(10, 3, 1, 1, 6, 6)
        fn = partial(gradients, columns)
        expected = jax.jit(fn)(x, kernel)
        errors[f"convolution of {shape}, columns={columns}"] = error(
            on_mesh((2, 1, 4), lambda *a, fn=fn: fn(*a), x, kernel), expected
        )
    return errors


def token_errors() -> dict[str, float]:
    """Videos as tokens and back, each device with its frames, as for a TPU."""

    def moved(x):
        frames, clip = frames_to_tokens(x), clip_to_tokens(x)
        means = jnp.sort(frames.mean((1, 2)))  # the order of the frames is that of the devices
        return means, clip, tokens_to_frames(frames, x.shape), tokens_to_clip(clip, x.shape)

    x = normal(15, 4, 8, 3, 2, 6)
    expected = moved(x)
    with targeting("tpu"):
        return {"tokens": error(on_mesh((2, 1, 4), lambda x: moved(x), x), expected)}


def frequency_results() -> dict[str, float]:
    """The loss and its gradient, and how many collectives they take where devices have clips of their own."""

    def gradients(prediction, target, timesteps):
        def loss(prediction):
            losses = frequency_loss(LossConfig(), prediction, target, timesteps, 999)
            return losses.sum(), losses

        return jax.grad(loss, has_aux=True)(prediction)

    arguments = normal(11, 8, 3, 8, 16, 3), normal(12, 8, 3, 8, 16, 3), jnp.arange(8) * 100
    mesh = jax.make_mesh((8, 1, 1), ("data", "fsdp", "context"), axis_types=(AxisType.Auto,) * 3)
    clips = NamedSharding(mesh, PartitionSpec("data"))
    with jax.set_mesh(mesh):
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=clips) for x in arguments]
        compiled = jax.jit(gradients, out_shardings=clips).lower(*shapes).compile()
    return {
        "frequency loss": error(on_mesh((2, 1, 4), gradients, *arguments), jax.jit(gradients)(*arguments)),
        "collectives of the frequency loss": float(len(read_program(compiled.as_text()).collectives)),
    }


def shared_weight_results(axis: str) -> dict[str, float]:
    """A block whose weights eight devices share, and its clips (axis `fsdp`) or their frames (`context`).

    Its gradient, and what is exchanged for it.
    """
    block = ResnetBlock(
        64, 128, time_embed_dim=64, dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    graphdef, state = nnx.split(block)
    weights = random_tree(nnx.to_pure_dict(state))
    shape = (8, 3, 6, 8, 64) if axis == "fsdp" else (1, 8, 6, 8, 64)
    x, temb = normal(13, *shape), normal(14, shape[0], 64)

    def gradients(weights, x, temb):
        def loss(weights, x):
            out = split_frames(run_block(nnx.merge(graphdef, weights), "full")(split_frames(x), temb))
            return jnp.mean(jnp.sin(out))

        gradients = jax.grad(loss, argnums=(0, 1))(weights, x)
        return constrain_params(gradients[0]), split_frames(gradients[1])

    sizes = (1, 8, 1) if axis == "fsdp" else (1, 1, 8)
    mesh = jax.make_mesh(sizes, ("data", "fsdp", "context"), axis_types=(AxisType.Auto,) * 3)
    split = (
        NamedSharding(mesh, PartitionSpec("fsdp", "context")),
        NamedSharding(mesh, PartitionSpec("fsdp")),
    )
    placed = [jax.device_put(weights, param_shardings(mesh, weights)), *jax.device_put((x, temb), split)]
    with jax.set_mesh(mesh):
        compiled = jax.jit(gradients).lower(*placed).compile()
        found = jax.tree.map(np.asarray, compiled(*placed))
    exchanged = read_program(compiled.as_text()).collectives
    size = sum(x.nbytes for x in jax.tree.leaves(weights))
    allowed = {"all-gather", "all-reduce", *(["collective-permute"] if axis == "context" else [])}
    return {
        f"gradient of shared weights, {axis}": error(found, jax.jit(gradients)(weights, x, temb)),
        f"gathered, in parts of the weights, beyond twice, {axis}": max(
            0.0, exchanged["all-gather"].bytes / size - 2
        ),
        f"other exchanges, {axis}": float(len(exchanged.keys() - allowed)),
    }


if __name__ == "__main__":
    collect_garbage_seldom()
    assert jax.device_count() == 8
    with jax.default_matmul_precision("float32"):
        found = velocity_errors() | vae_errors() | attention_errors() | convolution_errors()
        found |= token_errors() | frequency_results()
        print(json.dumps(found | shared_weight_results("fsdp") | shared_weight_results("context")))
