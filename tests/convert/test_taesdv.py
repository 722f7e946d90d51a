"""TAESDV: its file, its numbers against PyTorch, and an upscale that decodes with it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from dwarf import dwarf
from networks import abstract_component
from torch import nn
from torch_weights import randomize

from star_jax.checkpoints.directory import load_component, read_config
from star_jax.config import StarConfig, TaesdvConfig
from star_jax.convert.converter import convert_checkpoint
from star_jax.errors import InputError
from star_jax.inference.pieces import Finish, decode_light_chunk
from star_jax.inference.pipeline import StarPipeline
from star_jax.inference.settings import UpscaleSettings
from star_jax.init.component import fresh_component
from star_jax.models.architectures import build_model

LAYERS, WIDTH = (3, 3, 3, 1), 64
SIZES = dwarf(4, 8, 2, (4, 4, 4, 4), light_decoder=TaesdvConfig())


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        sizes = (2 * WIDTH, WIDTH, WIDTH)
        convs = [nn.Conv2d(size, WIDTH, 3, padding=1) for size in sizes]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])

    def forward(self, x):
        past = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
        return torch.relu(self.conv(torch.cat([x, past], 1)) + x)


class Reference(nn.Module):
    """TAESDV in PyTorch, on one clip's frames [F, C, H, W]; modules in the file's order."""

    def __init__(self):
        super().__init__()
        parts: list[nn.Module] = [nn.Identity(), nn.Conv2d(4, WIDTH, 3, padding=1), nn.ReLU()]
        for i, count in enumerate(LAYERS):
            if i > 0:
                parts += [nn.Upsample(scale_factor=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)]
            parts += [Block() for _ in range(count)]
        self.decoder = nn.Sequential(*parts, nn.Conv2d(WIDTH, 3, 3, padding=1))
        self.encoder = nn.Sequential(nn.Conv2d(3, WIDTH, 3))

    def forward(self, latents):
        return self.decoder(3 * torch.tanh(latents / 3))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return randomize(Reference(), seed=1)


@pytest.fixture(scope="module")
def checkpoint(reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("taesdv")
    torch.save(reference.state_dict(), folder / "taesdv.pth")
    convert_checkpoint([folder / "taesdv.pth"], folder / "made", quiet=True)
    return folder / "made"


def test_it_joins_a_preset(checkpoint):
    config = read_config(checkpoint)
    assert config.preset == "i2vgen-xl" and config.light_decoder == TaesdvConfig()


def test_it_decodes_a_clip_in_pieces_as_pytorch_does_whole(checkpoint, reference):
    latents = np.random.default_rng(2).standard_normal((1, 4, 3, 5, 4), np.float32) * 2
    with torch.no_grad():
        frames = reference(torch.from_numpy(np.moveaxis(latents[0], -1, 1).copy()))
    expected = 2 * np.moveaxis(frames.numpy(), 1, -1) - 1
    model = build_model(read_config(checkpoint))
    _, abstract = abstract_component(model.config, "light_decoder")
    params = {"light_decoder": load_component(checkpoint, "light_decoder", abstract)}
    decode = jax.jit(lambda latents, carry: model.decode_light(params, latents, None, 0.0, carry))
    start = jax.tree.map(jnp.zeros_like, jax.eval_shape(decode, latents[:, :2], None)[1])
    first, carry = decode(latents[:, :2], start)
    second, _ = decode(latents[:, 2:], carry)
    actual = np.concatenate([first[0], second[0]])
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < 1e-5, error


def test_an_upscale_decodes_with_it_only_where_it_is_asked_for():
    model = build_model(SIZES)
    assert StarConfig.from_json(SIZES.to_json()) == SIZES
    assert UpscaleSettings().light_fidelity(model) is None
    assert UpscaleSettings(decoder="tiny").light_fidelity(model) is not None
    with pytest.raises(InputError, match="no fidelity to choose"):
        UpscaleSettings(decoder="tiny", fidelity=0.5).light_fidelity(model)


def test_its_frames_get_the_colours_of_the_input():
    """A decoder of random weights gives frames with the input's mean, in place and of the output's size."""
    model = build_model(dataclasses.replace(SIZES, light_decoder=TaesdvConfig(4, (1, 1, 1, 1))))
    params = {name: fresh_component(model, name, 0) for name in model.light_components}
    canvas = StarPipeline(model, params, None).canvas((9, 8), UpscaleSettings())
    rows, columns = (side // 8 for side in canvas.padding.padded_size(*canvas.target))
    latents = np.random.default_rng(3).standard_normal((1, 3, rows, columns, 4), np.float32)
    frames = np.random.default_rng(4).integers(60, 190, (3, 9, 8, 3), np.uint8)
    fidelity = np.float32(0)
    plain, fixed = (
        decode_light_chunk(model, canvas, Finish(name), params, latents, None, fidelity, frames)[0]
        for name in ("none", "adain")
    )
    assert plain.shape == fixed.shape == (3, 36, 32, 3)
    assert abs(fixed.mean() - frames.mean()) < 3 < abs(plain.mean() - frames.mean())
