"""The two backbones of DOVER in PyTorch, with the keys of its authors' file, of any width."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

WINDOW = (8, 7, 7)


class Attention(nn.Module):
    """Attention in windows, with a bias by the tokens' places, and another between fragments."""

    def __init__(self, width: int, heads: int, *, with_fragments: bool, shifted: bool):
        super().__init__()
        places = 15 * 13 * 13
        self.heads, self.shifted = heads, shifted
        self.relative_position_bias_table = nn.Parameter(torch.zeros(places, heads))
        if with_fragments:
            self.fragment_position_bias_table = nn.Parameter(torch.zeros(places, heads))
        self.register_buffer("relative_position_index", torch.zeros(392, 392, dtype=torch.long))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        batch, *size, width = x.shape
        window = [min(pair) for pair in zip(size, WINDOW, strict=True)]
        shift = [w // 2 if self.shifted and w < s else 0 for w, s in zip(window, size, strict=True)]
        counts = [s // w for s, w in zip(size, window, strict=True)]

        def roll_and_split(y):
            y = torch.roll(y, [-s for s in shift], (1, 2, 3))
            y = y.reshape(len(y), *itertools.chain(*zip(counts, window, strict=True)), y.shape[-1])
            return y.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(1, 3)

        # of each token: its place within the window, its fragment, and which sides of the clip it was moved from
        axes = [torch.arange(s) for s in size]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        place = (grid - torch.tensor(shift)) % torch.tensor(size) % torch.tensor(window)
        place = place @ torch.tensor([169, 13, 1])
        row, column = (grid[..., axis] * 7 // size[axis] for axis in (1, 2))
        moved = (grid < torch.tensor(shift)).long() @ torch.tensor([1, 2, 4])
        facts = roll_and_split(torch.stack([place, row, column, moved], -1)[None])[0].movedim(-1, 0)
        place, row, column, moved = facts[..., :, None] - facts[..., None, :]
        index = place[0] + 7 * 169 + 6 * 13 + 6  # the same in every window
        bias = self.relative_position_bias_table[index]
        if hasattr(self, "fragment_position_bias_table"):
            gate = (row.abs() + column.abs())[..., None]
            bias = gate * bias + (1 - gate) * self.fragment_position_bias_table[index]
        bias = bias.masked_fill((moved != 0)[..., None], -100.0)

        tokens = roll_and_split(x)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        scores = (q / q.shape[-1] ** 0.5) @ k.mT + bias.permute(0, 3, 1, 2)
        y = self.proj((scores.softmax(-1) @ v).transpose(2, 3).flatten(3))
        y = y.unflatten(1, counts).unflatten(4, window).permute(0, 1, 4, 2, 5, 3, 6, 7)
        return torch.roll(y.reshape(batch, *size, width), shift, (1, 2, 3))


class Mlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    def __init__(self, width: int, heads: int, **options):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = Attention(width, heads, **options), Mlp(width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Merge(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.reduction, self.norm = nn.Linear(4 * width, 2 * width, bias=False), nn.LayerNorm(4 * width)

    def forward(self, x):
        corners = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, -1)))


class SwinLayer(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, *, last: bool):
        super().__init__()
        self.blocks = nn.Sequential(
            *(SwinBlock(width, heads, with_fragments=not last, shifted=i % 2 == 1) for i in range(depth))
        )
        if not last:
            self.downsample = Merge(width)

    def forward(self, x):
        x = self.blocks(x)
        return self.downsample(x) if hasattr(self, "downsample") else x


class PatchEmbed(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.proj, self.norm = nn.Conv3d(3, width, (2, 4, 4), (2, 4, 4)), nn.LayerNorm(width)

    def forward(self, x):
        return self.norm(self.proj(x).movedim(1, -1))


class Swin(nn.Module):
    """[B, 3, T, 224, 224] to [B, T / 2, 7, 7, 8 * width]."""

    def __init__(self, width: int):
        super().__init__()
        self.patch_embed = PatchEmbed(width)
        sizes = zip((2, 2, 6, 2), (3, 6, 12, 24), strict=True)
        self.layers = nn.Sequential(
            *(SwinLayer(width * 2**i, depth, heads, last=i == 3) for i, (depth, heads) in enumerate(sizes))
        )
        self.norm = nn.LayerNorm(8 * width)

    def forward(self, x):
        return self.norm(self.layers(self.patch_embed(x)))


class ChannelsFirstNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ConvNextBlock(nn.Module):
    def __init__(self, width: int, time: int):
        super().__init__()
        self.dwconv = nn.Conv3d(width, width, (time, 7, 7), padding=(time // 2, 3, 3), groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        y = self.pwconv2(F.gelu(self.pwconv1(self.norm(self.dwconv(x).movedim(1, -1)))))
        return x + (self.gamma * y).movedim(-1, 1)


class ConvNext(nn.Module):
    """[B, 3, T, H, W] to [B, T / 2, H / 32, W / 32, 8 * width]."""

    def __init__(self, width: int):
        super().__init__()
        widths = [width * 2**level for level in range(4)]
        stem = nn.Conv3d(3, width, (2, 4, 4), (2, 4, 4)), ChannelsFirstNorm(width, eps=1e-6)
        self.downsample_layers = nn.ModuleList([nn.Sequential(*stem)])
        for a, b in itertools.pairwise(widths):
            layers = ChannelsFirstNorm(a, eps=1e-6), nn.Conv3d(a, b, (1, 2, 2), (1, 2, 2))
            self.downsample_layers.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNextBlock(channels, 3 if i % 3 == 1 else 1) for i in range(depth)))
            for channels, depth in zip(widths, (3, 3, 9, 3), strict=True)
        )
        self.norm = nn.LayerNorm(8 * width, eps=1e-6)

    def forward(self, x):
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return self.norm(x.movedim(1, -1))


class Head(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc_hid, self.fc_last = nn.Conv3d(width, 64, 1), nn.Conv3d(64, 1, 1)

    def forward(self, x):
        return self.fc_last(F.gelu(self.fc_hid(x.movedim(-1, 1)))).mean((1, 2, 3, 4))


class Dover(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.technical_backbone, self.technical_head = Swin(width), Head(8 * width)
        self.aesthetic_backbone, self.aesthetic_head = ConvNext(width), Head(8 * width)

    def forward(self, branch: str, view):
        """The mean score of a view [B, 3, T, H, W], RGB between 0 and 255."""
        mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1, 1)
        scale = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1, 1)
        features = getattr(self, f"{branch}_backbone")((view - mean) / scale)
        return getattr(self, f"{branch}_head")(features)
