"""Networks of metrics against PyTorch with seeded random weights: values, and the way through conversion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_weights import randomize

from star_jax.convert.metric_networks import networks_in, read_network
from star_jax.convert.tensors import ArrayTensor
from star_jax.evaluation.metrics.dists import dists
from star_jax.evaluation.metrics.lpips import lpips
from star_jax.evaluation.networks import raft
from star_jax.evaluation.networks.alexnet import alexnet_features
from star_jax.evaluation.networks.vgg16 import vgg16_features

TOLERANCE = 1e-5


def alexnet() -> nn.Sequential:
    """torchvision's `features`, whose numbers name the keys."""
    sizes = [(11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256)]
    layers = []
    for index, (window, inputs, outputs) in enumerate(sizes):
        stride, padding = (4, 2) if index == 0 else (1, window // 2)
        layers += [nn.Conv2d(inputs, outputs, window, stride, padding), nn.ReLU()]
        if index < 2:
            layers.append(nn.MaxPool2d(3, 2))
    return nn.Sequential(*layers)


def vgg16() -> nn.Sequential:
    layers, inputs = [], 3
    for outputs, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            inputs = outputs
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers[:-1])


def as_source(state: dict[str, torch.Tensor], prefix: str = "") -> dict[str, ArrayTensor]:
    return {prefix + key: ArrayTensor(value.numpy()) for key, value in state.items()}


def converted(source: dict[str, ArrayTensor], name: str) -> dict[str, jnp.ndarray]:
    leaves = read_network(name, networks_in(source, "source")[name], source, "source")
    return {key: jnp.asarray(value) for key, value in leaves.items()}


def torch_features(network: nn.Sequential, x: torch.Tensor, taken: tuple[int, ...]) -> list[torch.Tensor]:
    features = []
    for index, layer in enumerate(network):
        x = layer(x)
        if index in taken:
            features.append(x)
    return features


def as_jax(x: torch.Tensor) -> jnp.ndarray:
    return jnp.asarray(x.permute(0, 2, 3, 1).numpy())


def assert_close(ours, theirs: torch.Tensor) -> None:
    theirs = theirs.permute(0, 2, 3, 1).numpy()
    assert np.abs(np.asarray(ours) - theirs).max() <= TOLERANCE * np.abs(theirs).max()


@pytest.fixture(scope="module")
def backbones():
    """name -> (torch network, converted parameters, function, the layers whose output is taken)."""
    made = {}
    for name, make, function, taken in (
        ("alexnet", alexnet, alexnet_features, (1, 4, 7, 9, 11)),
        ("vgg16", vgg16, vgg16_features, (3, 8, 15, 22, 29)),
    ):
        network = randomize(make(), 0)
        made[name] = network, converted(as_source(network.state_dict(), "features."), name), function, taken
    return made


@pytest.fixture(scope="module")
def frames():
    """Two frames and their ground truth, uint8 [2, 41, 50, 3]: sides that no stride divides."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (2, 41, 50, 3), np.uint8)
    return np.clip(truth + rng.normal(0, 20, truth.shape), 0, 255).astype(np.uint8), truth


@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
@torch.no_grad()
def test_features(backbones, name):
    network, params, function, taken = backbones[name]
    x = torch.randn(2, 3, 41, 50, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(function(params, as_jax(x)), torch_features(network, x, taken), strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize(("backbone", "name"), [("alex", "alexnet"), ("vgg", "vgg16")])
@torch.no_grad()
def test_lpips(backbones, frames, backbone, name):
    network, params, _, taken = backbones[name]
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    features = [
        torch_features(network, (torch.from_numpy(x).permute(0, 3, 1, 2) / 127.5 - 1 - shift) / scale, taken)
        for x in frames
    ]
    generator = torch.Generator().manual_seed(2)
    linear = {
        f"lin{i}.model.1.weight": torch.rand(1, f.shape[1], 1, 1, generator=generator)
        for i, f in enumerate(features[0])
    }
    expected = torch.zeros(2)
    for weight, a, b in zip(linear.values(), *features, strict=True):
        a, b = (x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for x in (a, b))
        expected += F.conv2d((a - b) ** 2, weight).mean((1, 2, 3))
    weights = converted(as_source(linear), f"lpips_{backbone}")
    assert np.asarray(lpips(backbone, params, weights, *frames)) == pytest.approx(
        expected.numpy(), rel=TOLERANCE
    )
    assert np.asarray(lpips(backbone, params, weights, frames[1], frames[1])) == pytest.approx(
        [0, 0], abs=1e-9
    )


@torch.no_grad()
def test_dists(backbones, frames):
    network, params, _, _ = backbones["vgg16"]
    window = torch.from_numpy(np.outer([0.5, 1, 0.5], [0.5, 1, 0.5]) / 4).float()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)

    def features(x: np.ndarray) -> list[torch.Tensor]:
        x = torch.from_numpy(x).permute(0, 3, 1, 2) / 255
        found, h = [x], (x - mean) / std
        for index, layer in enumerate(network):
            if isinstance(layer, nn.MaxPool2d):
                kernel = window.expand(h.shape[1], 1, 3, 3)
                h = (F.conv2d(h**2, kernel, stride=2, padding=1, groups=h.shape[1]) + 1e-12).sqrt()
            else:
                h = layer(h)
            if index in (3, 8, 15, 22, 29):
                found.append(h)
        return found

    generator = torch.Generator().manual_seed(3)
    weights = {name: torch.rand(1, 1475, 1, 1, generator=generator) for name in ("alpha", "beta")}
    total, begin, expected = sum(w.sum() for w in weights.values()), 0, torch.ones(2)
    for x, y in zip(*map(features, frames), strict=True):
        alpha, beta = (w[0, begin : begin + x.shape[1], 0, 0] / total for w in weights.values())
        begin += x.shape[1]
        mx, my = x.mean((2, 3)), y.mean((2, 3))
        cov = (x * y).mean((2, 3)) - mx * my
        vx, vy = x.var((2, 3), correction=0), y.var((2, 3), correction=0)
        expected -= ((2 * mx * my + 1e-6) / (mx**2 + my**2 + 1e-6)) @ alpha
        expected -= ((2 * cov + 1e-6) / (vx + vy + 1e-6)) @ beta
    ours = dists(params, converted(as_source(weights), "dists"), *frames)
    assert np.asarray(ours) == pytest.approx(expected.numpy(), rel=TOLERANCE)


class Residual(nn.Module):
    """A block of RAFT's encoders, with the original's names."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.norm1, self.norm2 = norm(outputs), norm(outputs)
        self.downsample = None
        if stride > 1:
            self.norm3 = norm(outputs)
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), self.norm3)

    def forward(self, x):
        y = F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Encoder(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 64, 7, 2, 3), norm(64)
        widths = [(64, 64, 1), (64, 96, 2), (96, 128, 2)]
        for level, (inputs, outputs, stride) in enumerate(widths, 1):
            blocks = nn.Sequential(
                Residual(inputs, outputs, stride, norm), Residual(outputs, outputs, 1, norm)
            )
            setattr(self, f"layer{level}", blocks)
        self.conv2 = nn.Conv2d(128, 256, 1)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class Update(nn.Module):
    """RAFT's update, with the original's names."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict(
            {
                "convc1": nn.Conv2d(324, 256, 1),
                "convc2": nn.Conv2d(256, 192, 3, padding=1),
                "convf1": nn.Conv2d(2, 128, 7, padding=3),
                "convf2": nn.Conv2d(128, 64, 3, padding=1),
                "conv": nn.Conv2d(256, 126, 3, padding=1),
            }
        )
        self.gru = nn.ModuleDict(
            {
                f"conv{gate}{step}": nn.Conv2d(384, 128, window, padding=(window[0] // 2, window[1] // 2))
                for step, window in ((1, (1, 5)), (2, (5, 1)))
                for gate in "zrq"
            }
        )
        self.flow_head = nn.ModuleDict(
            {"conv1": nn.Conv2d(128, 256, 3, padding=1), "conv2": nn.Conv2d(256, 2, 3, padding=1)}
        )
        self.mask = nn.Sequential(nn.Conv2d(128, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 576, 1))

    def forward(self, h, context, correlation, motion):
        e = self.encoder
        seen = F.relu(e["convc2"](F.relu(e["convc1"](correlation))))
        moved = F.relu(e["convf2"](F.relu(e["convf1"](motion))))
        x = torch.cat([context, F.relu(e["conv"](torch.cat([seen, moved], 1))), motion], 1)
        for step in "12":
            z, r = (torch.sigmoid(self.gru[f"conv{g}{step}"](torch.cat([h, x], 1))) for g in "zr")
            h = (1 - z) * h + z * torch.tanh(self.gru[f"convq{step}"](torch.cat([r * h, x], 1)))
        return h, self.flow_head["conv2"](F.relu(self.flow_head["conv1"](h)))


class Raft(nn.Module):
    """RAFT in PyTorch, written plainly: all correlations, one bilinear sample for each place of a window."""

    def __init__(self):
        super().__init__()
        self.fnet, self.cnet, self.update_block = (
            Encoder(nn.InstanceNorm2d),
            Encoder(nn.BatchNorm2d),
            Update(),
        )

    def forward(self, first, second, iterations):
        first, second = (2 * (x / 255) - 1 for x in (first, second))
        f1, f2 = self.fnet(first), self.fnet(second)
        hidden, context = self.cnet(first).split(128, dim=1)
        hidden, context = torch.tanh(hidden), F.relu(context)
        _, channels, height, width = f1.shape
        correlation = (
            torch.einsum("chw,cij->hwij", f1[0], f2[0]).reshape(-1, 1, height, width) / channels**0.5
        )
        start = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"))[
            None
        ].float()
        coords = start
        for _ in range(iterations):
            hidden, delta = self.update_block(
                hidden, context, self.look_up(correlation, coords), coords - start
            )
            coords = coords + delta
        return self.upsample(hidden, coords - start)

    def look_up(self, level, coords):
        _, _, height, width = coords.shape
        offsets = torch.arange(-4.0, 5)
        windows = []
        for scale in (1, 2, 4, 8):
            x = coords[0, 0].reshape(-1, 1, 1) / scale + offsets.view(1, -1, 1)  # the first axis moves x
            y = coords[0, 1].reshape(-1, 1, 1) / scale + offsets.view(1, 1, -1)
            x, y = torch.broadcast_tensors(x, y)
            h, w = level.shape[2:]
            grid = torch.stack([2 * x / (w - 1) - 1, 2 * y / (h - 1) - 1], -1)
            windows.append(F.grid_sample(level, grid, align_corners=True).reshape(height, width, 81))
            level = F.avg_pool2d(level, 2, 2)
        return torch.cat(windows, -1).permute(2, 0, 1)[None]

    def upsample(self, hidden, motion):
        _, _, h, w = motion.shape
        mask = (0.25 * self.update_block.mask(hidden)).view(1, 1, 9, 8, 8, h, w).softmax(2)
        around = F.unfold(8 * motion, 3, padding=1).view(1, 2, 9, 1, 1, h, w)
        return (mask * around).sum(2).permute(0, 1, 4, 2, 5, 3).reshape(1, 2, 8 * h, 8 * w)


@pytest.fixture(scope="module")
def flows():
    """Random RAFT: its converted parameters, two encoded frames, and PyTorch's flow between them."""
    network = randomize(Raft(), 0)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand(buffer.shape, generator=generator) * 0.5 + ("var" in name) * 0.5)
        coarse = torch.rand(1, 3, 16, 20, generator=generator) * 255
        first = F.interpolate(coarse, size=(128, 144), mode="bicubic").clamp(0, 255)
        second = torch.roll(first, (3, 5), (2, 3))
        theirs = network(first, second, 3)
    params = converted(as_source(network.state_dict()), "raft")
    encode = jax.jit(raft.encode)
    encoded = [encode(params, as_jax(x)) for x in (first, second)]
    return params, encoded, theirs


@pytest.mark.parametrize("volume_bytes", [raft.VOLUME_BYTES, 0], ids=["all kept", "in blocks"])
def test_raft(flows, volume_bytes, monkeypatch):
    params, encoded, theirs = flows
    monkeypatch.setattr(raft, "_BLOCK_BYTES", 2**20)  # several blocks, the last one not full
    ours = raft.flow(params, *encoded, iterations=3, volume_bytes=volume_bytes)
    assert theirs.abs().max() > 1
    assert_close(ours, theirs)
