"""Colours, times and sound over containers, codecs, rates, ranges and matrices; zimg converts independently."""

import subprocess
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
from color_patches import CENTRES, HEIGHT, PATCH, WIDTH, coded, patches, write
from sample_videos import NTSC_FILM, packets, pass_through, shown, sound_times

from star_jax.video.images import open_source
from star_jax.video.reader import VideoReader

COMBINATIONS = [
    # container, encoder, pixel format, rate, matrix, full range, output, sound
    ("mp4", "libx264", "yuv420p", Fraction(25), 1, False, "mp4", "aac"),
    ("mp4", "libx264", "yuv420p", NTSC_FILM, 5, False, "mkv", "aac"),
    ("mp4", "libx264", "yuv420p", Fraction(30000, 1001), 6, True, "mov", "aac"),
    ("mp4", "libx264", "yuv444p", Fraction(50), 9, False, "mp4", "aac"),
    ("mp4", "libx264", "yuv422p", Fraction(60), 1, True, "mkv", "ac3"),
    ("mkv", "libx264", "yuv420p", Fraction(24), 7, False, "mp4", "aac"),
    ("mkv", "libx264", "yuv420p", Fraction(15), 1, True, "mkv", "flac"),
    ("mov", "libx264", "yuv420p", NTSC_FILM, 6, False, "mov", "pcm_s16le"),
    ("ts", "libx264", "yuv420p", Fraction(25), 5, False, "mp4", "mp2"),
    ("ts", "libx264", "yuv420p", Fraction(60000, 1001), 1, False, "mkv", "mp2"),
    ("mkv", "libvpx-vp9", "yuv420p", Fraction(30), 5, False, "mp4", "flac"),
    ("mkv", "libvpx-vp9", "yuv444p", Fraction(25), 1, False, "mkv", "ac3"),
    ("mkv", "ffv1", "yuv420p", Fraction(12), 6, False, "mp4", "aac"),
    ("mkv", "ffv1", "yuv422p", NTSC_FILM, 9, False, "mkv", "pcm_s16le"),
    ("avi", "ffv1", "yuv420p", Fraction(25), 5, False, "mp4", "mp2"),
    ("mp4", "libx265", "yuv420p", Fraction(48), 1, False, "mp4", "aac"),
    ("mp4", "libx265", "yuv420p10le", Fraction(25), 9, False, "mp4", "aac"),
    ("mkv", "libx265", "yuv420p10le", NTSC_FILM, 1, True, "mkv", "aac"),
    ("mkv", "ffv1", "yuv444p10le", Fraction(30), 6, False, "mov", "aac"),
    ("mov", "prores_ks", "yuv422p10le", Fraction(25), 1, False, "mp4", "pcm_s16le"),
]


def by_zimg(source: Path, old: tuple[int, bool], new: tuple[int, str]) -> tuple[np.ndarray, np.ndarray]:
    """Levels at the centres of the patches as zimg converts them, of every frame of a file.

    Args:
        source: the file.
        old: matrix that is meant, and whether the range is full.
        new: matrix and pixel format of the output, limited range.

    Returns:
        Y, Cb and Cr of the output, float [F, 3, 4, 6], and red, green and blue of the source, 16 bits [F, 4, 6, 3].
    """
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", str(source)]
    taken = f"zscale=min={old[0]}:rin={int(old[1])}:cin=left:c=left:f=bicubic"
    graph = f"[0:v]split[a][b];[a]{taken}:m={new[0]}:r=0,format={new[1]}[yuv];"
    graph += f"[b]{taken}:m=gbr:r=1,format=gbrp16le[rgb]"
    files = [source.with_suffix(".yuv"), source.with_suffix(".rgb")]
    command += ["-filter_complex", graph]
    for name, file in zip(("yuv", "rgb"), files, strict=True):
        command += ["-map", f"[{name}]", "-fps_mode", "passthrough", "-f", "rawvideo", str(file)]
    subprocess.run(command, check=True)
    fmt = av.VideoFormat(new[1])
    data = np.fromfile(files[0], np.uint8 if fmt.components[0].bits == 8 else np.uint16)
    sizes = [(HEIGHT, WIDTH), *[(fmt.chroma_height(HEIGHT), fmt.chroma_width(WIDTH))] * 2]
    edges = np.cumsum([height * width for height, width in sizes])
    frames = data.reshape(-1, edges[-1]).astype(float)
    planes = []
    for (height, width), end in zip(sizes, edges, strict=True):
        down, across = HEIGHT // height, WIDTH // width
        plane = frames[:, end - height * width : end].reshape(-1, height, width)
        planes.append(plane[:, PATCH // 2 // down :: PATCH // down, PATCH // 2 // across :: PATCH // across])
    green, blue, red = np.moveaxis(np.fromfile(files[1], np.uint16).reshape(-1, 3, HEIGHT, WIDTH), 1, 0)
    return np.stack(planes, 1), np.stack([red, green, blue], -1)[(slice(None), *CENTRES)].astype(float)


@pytest.mark.parametrize(
    ("container", "encoder", "pix_fmt", "rate", "matrix", "is_full", "target", "audio"), COMBINATIONS
)
def test_combinations(tmp_path, container, encoder, pix_fmt, rate, matrix, is_full, target, audio):
    rgb = patches()
    source = write(
        tmp_path / f"in.{container}",
        rgb,
        encoder=encoder,
        pix_fmt=pix_fmt,
        matrix=matrix,
        is_full=is_full,
        rate=rate,
        audio=audio,
    )
    bits = av.VideoFormat(pix_fmt).components[0].bits
    out = pass_through(source, tmp_path / f"out.{target}", crf=0)
    with av.open(str(source)) as before, av.open(str(out)) as after:
        pairs = list(zip(before.decode(video=0), after.decode(video=0), strict=True))
        assert float(after.streams.video[0].average_rate) == pytest.approx(float(rate), rel=1e-5)
    assert VideoReader(out).info.frame_rate == rate
    assert len(pairs) == len(rgb)
    # An untagged file of this size is BT.601, and AVI holds no tags.
    meant = matrix if container != "avi" or matrix in (5, 6) else 6
    assert {(new.colorspace, new.color_range) for _, new in pairs} == {(9 if matrix == 9 else 1, 1)}
    levels, rgb16 = by_zimg(source, (meant, is_full), (pairs[0][1].colorspace, pairs[0][1].format.name))
    read = open_source(source, depth=None).read()[(slice(None), *CENTRES)]
    assert np.abs(read / np.iinfo(read.dtype).max - rgb16 / 65535).max() <= 1 / (2**bits - 1)
    for (old, new), expected in zip(pairs, levels, strict=True):
        assert new.format.components[0].bits == bits
        assert np.abs(coded(new) - expected).max() <= 1
        if not is_full and new.colorspace == meant:  # RGB in between loses nothing
            np.testing.assert_array_equal(coded(new), coded(old))
    start = shown(source)[0][0] - shown(out)[0][0]
    times = [time + start for time, _ in shown(out)]
    assert times == pytest.approx([time for time, _ in shown(source)], abs=1.1e-3)
    assert [data for *_, data in packets(source)] == [data for *_, data in packets(out)]
    sync = np.subtract(sound_times(out), sound_times(source)) + start
    assert np.abs(sync).max() < 2.1e-3
