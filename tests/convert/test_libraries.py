"""Models saved by diffusers and transformers: same outputs after conversion, and back into those libraries."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from convert_samples import SMALL
from diffusers import AutoencoderKLTemporalDecoder, I2VGenXLUNet
from flax import nnx
from networks import abstract_component
from torch_weights import randomize, relative_error
from transformers import CLIPTextConfig, CLIPTextModel

from star_jax.checkpoints.directory import load_component
from star_jax.config import LiemConfig
from star_jax.convert.converter import convert_checkpoint
from star_jax.convert.exporter import export_checkpoint

TOLERANCE = 1e-4
# What I2VGen-XL is: no LIEM; SMALL already pads its strided convolutions as diffusers does.
PLAIN = dataclasses.replace(
    SMALL, unet=dataclasses.replace(SMALL.unet, liem=LiemConfig(spatial=False, temporal=False))
)


def run(directory, config, name: str, method: str, *args) -> jax.Array:
    """Calls a method of a component with its weights from a checkpoint directory."""
    graphdef, abstract = abstract_component(config, name)
    params = load_component(directory, name, abstract)
    call = jax.jit(lambda params, *args: getattr(nnx.merge(graphdef, params), method)(*args))
    return call(params, *map(jnp.asarray, args))


def normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_same_state(actual: torch.nn.Module, expected: torch.nn.Module):
    actual, expected = actual.state_dict(), expected.state_dict()
    assert actual.keys() == expected.keys()
    for key, tensor in expected.items():
        assert actual[key].dtype == tensor.dtype and torch.equal(actual[key], tensor), key


def to_torch(video: np.ndarray) -> torch.Tensor:  # [B, F, H, W, C] -> [B, C, F, H, W]
    return torch.from_numpy(np.moveaxis(video, -1, 1).copy())


@pytest.fixture(scope="module")
def i2vgen() -> I2VGenXLUNet:
    sizes = PLAIN.unet
    model = I2VGenXLUNet(
        block_out_channels=sizes.block_out_channels,
        layers_per_block=sizes.layers_per_block,
        cross_attention_dim=sizes.cross_attention_dim,
        attention_head_dim=sizes.attention_head_dim,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    )
    return randomize(model, seed=0)


def without_conditions(model: I2VGenXLUNet, text_tokens: int) -> I2VGenXLUNet:
    """The network as STAR takes it over: no image latents, no frame rate, attention to the text's tokens only."""
    with torch.no_grad():
        model.conv_in.weight[:, model.config.in_channels :] = 0
        model.fps_embedding[-1].weight.zero_()
        model.fps_embedding[-1].bias.zero_()

    def cut(_module, args, kwargs):
        context = kwargs.get("encoder_hidden_states")
        if context is not None:
            kwargs["encoder_hidden_states"] = context[:, :text_tokens]
        return args, kwargs

    for name, module in model.named_modules():
        if name.endswith(".attn2"):
            module.register_forward_pre_hook(cut, with_kwargs=True)
    return model


def test_i2vgen_unet(tmp_path, i2vgen):
    i2vgen.save_pretrained(tmp_path / "saved")
    convert_checkpoint([tmp_path / "saved"], tmp_path / "made", preset=PLAIN)
    base = str(tmp_path / "saved")
    export_checkpoint(tmp_path / "made", tmp_path / "back.pt", layout="diffusers-i2vgen-xl", base=base)
    back = I2VGenXLUNet.from_config(i2vgen.config)
    back.load_state_dict(torch.load(tmp_path / "back.pt", weights_only=True), strict=True)
    assert_same_state(back, i2vgen)

    sample, text = normal((2, 3, 8, 8, 4), 1), normal((2, 5, 16), 2)
    timesteps = np.array([801, 17])
    reference = without_conditions(i2vgen, text_tokens=5)
    with torch.no_grad():
        expected = reference(
            to_torch(sample),
            torch.from_numpy(timesteps),
            fps=torch.tensor([16, 16]),
            image_latents=torch.zeros(2, 4, 3, 8, 8),
            image_embeddings=torch.zeros(2, 16),
            encoder_hidden_states=torch.from_numpy(text),
        ).sample
    actual = run(tmp_path / "made", PLAIN, "unet", "__call__", sample, timesteps, text)
    assert relative_error(actual, np.moveaxis(expected.numpy(), 1, -1)) < TOLERANCE  # about 1e-6


def small_vae(seed: int) -> AutoencoderKLTemporalDecoder:
    sizes = SMALL.vae
    model = AutoencoderKLTemporalDecoder(
        block_out_channels=sizes.block_out_channels,
        layers_per_block=sizes.layers_per_block,
        down_block_types=("DownEncoderBlock2D",) * len(sizes.block_out_channels),
    )
    return randomize(model, seed)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_vae(tmp_path, variant):
    reference = small_vae(seed=3)
    saved = small_vae(seed=3).half() if variant else reference
    saved.save_pretrained(tmp_path / "saved", variant=variant)
    convert_checkpoint([tmp_path / "saved"], tmp_path / "made", preset=SMALL)
    export_checkpoint(tmp_path / "made", tmp_path / "back", layout="svd-vae")
    back, loading = AutoencoderKLTemporalDecoder.from_pretrained(
        tmp_path / "back", output_loading_info=True, torch_dtype=saved.dtype
    )
    assert not any(loading.values())
    assert_same_state(back, saved)

    reference.load_state_dict(saved.state_dict())  # rounded to half precision where the file is
    frames, latents = np.tanh(normal((1, 3, 16, 16, 3), 4)), normal((1, 3, 8, 8, 4), 5)
    with torch.no_grad():
        moments = reference.encode(to_torch(frames)[0].transpose(0, 1)).latent_dist.mean
        decoded = reference.decode(to_torch(latents)[0].transpose(0, 1), num_frames=3).sample
    mean = run(tmp_path / "made", SMALL, "vae", "encode", frames).mean
    assert relative_error(mean[0], np.moveaxis(moments.numpy(), 1, -1)) < TOLERANCE
    actual = run(tmp_path / "made", SMALL, "vae", "decode", latents)
    assert relative_error(actual[0], np.moveaxis(decoded.numpy(), 1, -1)) < TOLERANCE


@pytest.fixture(scope="module")
def text_tower() -> CLIPTextModel:
    sizes = dataclasses.asdict(SMALL.text_encoder)
    return randomize(CLIPTextModel(CLIPTextConfig(hidden_act="gelu", **sizes)), seed=6)


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 512, (2, 77))


@pytest.fixture(scope="module")
def embeddings(text_tower, tokens) -> np.ndarray:
    """The penultimate layer's output through the final norm."""
    with torch.no_grad():
        hidden = text_tower(torch.from_numpy(tokens), output_hidden_states=True).hidden_states[-2]
        return text_tower.get_submodule("final_layer_norm")(hidden).numpy()


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_text_tower(tmp_path, text_tower, tokens, embeddings, prefix):
    state = {prefix + key: tensor for key, tensor in text_tower.state_dict().items()}
    torch.save(state | {prefix + "embeddings.position_ids": torch.arange(77)}, tmp_path / "model.bin")
    convert_checkpoint([tmp_path / "model.bin"], tmp_path / "made", preset=SMALL)
    actual = run(tmp_path / "made", SMALL, "text_encoder", "__call__", tokens)
    assert relative_error(actual, embeddings) < TOLERANCE

    export_checkpoint(tmp_path / "made", tmp_path / "back", layout="clip")
    back, loading = CLIPTextModel.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(loading.values())
    assert_same_state(back, text_tower)


def test_text_tower_saved_by_transformers(tmp_path, text_tower, tokens, embeddings):
    text_tower.save_pretrained(tmp_path / "saved")
    convert_checkpoint([tmp_path / "saved"], tmp_path / "made", preset=SMALL)
    actual = run(tmp_path / "made", SMALL, "text_encoder", "__call__", tokens)
    assert relative_error(actual, embeddings) < TOLERANCE


def open_clip_state(tower: CLIPTextModel) -> dict[str, torch.Tensor]:
    """The tower's weights under OpenCLIP's names: query, key and value in one tensor."""
    state = tower.state_dict()
    result = {
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
    }
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for i in range(SMALL.text_encoder.num_hidden_layers):
        source, target = f"encoder.layers.{i}", f"transformer.resblocks.{i}"
        for kind in ("weight", "bias"):
            parts = [state[f"{source}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
            result[f"{target}.attn.in_proj_{kind}"] = torch.cat(parts)
            result[f"{target}.attn.out_proj.{kind}"] = state[f"{source}.self_attn.out_proj.{kind}"]
            for name, other in names.items():
                result[f"{target}.{other}.{kind}"] = state[f"{source}.{name}.{kind}"]
    for kind in ("weight", "bias"):
        result[f"ln_final.{kind}"] = state[f"final_layer_norm.{kind}"]
    return result


def test_open_clip(tmp_path, text_tower, tokens, embeddings):
    torch.save(open_clip_state(text_tower) | {"logit_scale": torch.ones(())}, tmp_path / "open_clip.bin")
    convert_checkpoint([tmp_path / "open_clip.bin"], tmp_path / "made", preset=SMALL)
    actual = run(tmp_path / "made", SMALL, "text_encoder", "__call__", tokens)
    assert relative_error(actual, embeddings) < TOLERANCE
