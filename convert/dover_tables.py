"""Rules of DOVER.pth: a Video Swin and a ConvNeXt, each with a head of two layers."""

from collections.abc import Iterator

from star_jax.convert.rules import CONV, LINEAR, POINT3, SAME, Layout, Rule, Shape

WIDTH = 96
_SWIN_DEPTHS = (2, 2, 6, 2)
_CONVNEXT_DEPTHS = (3, 3, 9, 3)
_HEADS = (3, 6, 12, 24)
_PLACES = 15 * 13 * 13  # relative positions of two tokens in a window of 8x7x7
_HIDDEN = 64
_SWIN = "technical_backbone"
_CONVNEXT = "aesthetic_backbone"
# These are computed from the size of the window.
IGNORED = (rf"{_SWIN}\..+\.relative_position_index",)

Part = tuple[Rule, Shape]


def dover_parts(width: int = WIDTH) -> Iterator[Part]:
    """Yields each rule with the shape of its leaf.

    Args:
      width: number of channels of the first stage of both backbones; tests use narrower ones.
    """
    yield from _swin(width)
    yield from _convnext(width)
    for branch in ("technical", "aesthetic"):
        yield from _layer(f"{branch}_head.fc_hid", f"{branch}_head/hidden", (8 * width, _HIDDEN), POINT3)
        yield from _layer(f"{branch}_head.fc_last", f"{branch}_head/last", (_HIDDEN, 1), POINT3)


def _layer(source: str, target: str, shape: Shape, layout: Layout) -> Iterator[Part]:
    yield Rule(f"{source}.weight", f"{target}/kernel", layout), shape
    yield Rule(f"{source}.bias", f"{target}/bias", SAME), shape[-1:]


def _norm(source: str, target: str, width: int) -> Iterator[Part]:
    yield Rule(f"{source}.weight", f"{target}/scale", SAME), (width,)
    yield Rule(f"{source}.bias", f"{target}/bias", SAME), (width,)


def _swin(width: int) -> Iterator[Part]:
    yield from _layer(f"{_SWIN}.patch_embed.proj", "technical/patch_embed", (2, 4, 4, 3, width), CONV)
    yield from _norm(f"{_SWIN}.patch_embed.norm", "technical/patch_norm", width)
    for level, depth in enumerate(_SWIN_DEPTHS):
        channels = width * 2**level
        for index in range(depth):
            source, target = (
                f"{_SWIN}.layers.{level}.blocks.{index}",
                f"technical/layers/{level}/blocks/{index}",
            )
            yield from _norm(f"{source}.norm1", f"{target}/norm1", channels)
            biases = {"relative_position_bias_table": "position_bias"}
            if level < 3:
                biases["fragment_position_bias_table"] = "fragment_bias"
            for key, leaf in biases.items():
                yield Rule(f"{source}.attn.{key}", f"{target}/attn/{leaf}", SAME), (_PLACES, _HEADS[level])
            yield from _layer(f"{source}.attn.qkv", f"{target}/attn/qkv", (channels, 3 * channels), LINEAR)
            yield from _layer(f"{source}.attn.proj", f"{target}/attn/proj", (channels, channels), LINEAR)
            yield from _norm(f"{source}.norm2", f"{target}/norm2", channels)
            yield from _layer(f"{source}.mlp.fc1", f"{target}/fc1", (channels, 4 * channels), LINEAR)
            yield from _layer(f"{source}.mlp.fc2", f"{target}/fc2", (4 * channels, channels), LINEAR)
        if level < 3:
            source, target = f"{_SWIN}.layers.{level}.downsample", f"technical/layers/{level}/downsample"
            shape = (4 * channels, 2 * channels)
            yield Rule(f"{source}.reduction.weight", f"{target}/reduction/kernel", LINEAR), shape
            yield from _norm(f"{source}.norm", f"{target}/norm", 4 * channels)
    yield from _norm(f"{_SWIN}.norm", "technical/norm", 8 * width)


def _convnext(width: int) -> Iterator[Part]:
    for level in range(4):
        source, target = f"{_CONVNEXT}.downsample_layers.{level}", f"aesthetic/downsample/{level}"
        channels = width * 2**level
        if level == 0:
            yield from _layer(f"{source}.0", f"{target}/conv", (2, 4, 4, 3, channels), CONV)
            yield from _norm(f"{source}.1", f"{target}/norm", channels)
        else:
            yield from _norm(f"{source}.0", f"{target}/norm", channels // 2)
            yield from _layer(f"{source}.1", f"{target}/conv", (1, 2, 2, channels // 2, channels), CONV)
    for level, depth in enumerate(_CONVNEXT_DEPTHS):
        channels = width * 2**level
        for index in range(depth):
            source, target = f"{_CONVNEXT}.stages.{level}.{index}", f"aesthetic/stages/{level}/{index}"
            window = (3 if index % 3 == 1 else 1, 7, 7, 1, channels)
            yield Rule(f"{source}.gamma", f"{target}/scale", SAME), (channels,)
            yield from _layer(f"{source}.dwconv", f"{target}/depthwise", window, CONV)
            yield from _norm(f"{source}.norm", f"{target}/norm", channels)
            yield from _layer(f"{source}.pwconv1", f"{target}/expand", (channels, 4 * channels), LINEAR)
            yield from _layer(f"{source}.pwconv2", f"{target}/contract", (4 * channels, channels), LINEAR)
    yield from _norm(f"{_CONVNEXT}.norm", "aesthetic/norm", 8 * width)
