"""Makes small video files with PyAV for the tests of reading and writing."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

NTSC_FILM = Fraction(24000, 1001)


def moving_frames(count: int, width: int = 96, height: int = 64) -> np.ndarray:
    """Frames [F, H, W, 3] in which each frame differs from all others: a gradient and a block that moves."""
    y, x = np.mgrid[:height, :width]
    frames = np.empty((count, height, width, 3), np.uint8)
    for i in range(count):
        frames[i] = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, i * 5 % 256)], -1)
        left = i * 3 % max(1, width - 16)
        frames[i, 8:24, left : left + 16] = (255, i * 7 % 256, 40)
    return frames


def color_chart(width: int = 96, height: int = 64) -> np.ndarray:
    """One frame [1, H, W, 3] of 24 flat patches of 16x16 pixels: primaries, greys and mixed colours."""
    colors = np.random.default_rng(0).integers(0, 256, (24, 3))
    colors[:8] = [[255 * (i >> 2 & 1), 255 * (i >> 1 & 1), 255 * (i & 1)] for i in range(8)]
    colors[8:12] = [[v, v, v] for v in (32, 96, 160, 224)]
    chart = colors.reshape(4, 6, 3).repeat(16, 0).repeat(16, 1)
    return chart[None, :height, :width].astype(np.uint8)


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    rate: Fraction = Fraction(30),
    pix_fmt: str = "yuv420p",
    codec: str = "libx264",
    crf: int = 8,
    gop: int = 12,
    pts: list[int] | None = None,
    time_base: Fraction | None = None,
    colorspace: int | None = None,
    color_range: int = 1,
    rotation: int = 0,
    audio: str | None = None,
    audio_start: int = 0,
    faststart: bool = False,
    sample_aspect_ratio: Fraction | None = None,
) -> Path:
    """Encodes frames, with B-frames and a key frame every `gop`; `colorspace` None leaves the file untagged."""
    options = {"movflags": "faststart"} if faststart else {}
    x264 = {"crf": str(crf), "preset": "ultrafast", "bf": "2", "g": str(gop)} if codec == "libx264" else {}
    reformatter = VideoReformatter()
    with av.open(str(path), "w", container_options=options) as container:
        stream = container.add_stream(codec, rate=rate, options=x264)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        if sample_aspect_ratio is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
        if rotation:
            stream.set_display_rotation(rotation)
        if time_base is not None:
            stream.codec_context.time_base = time_base
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
            stream.codec_context.color_range = color_range
        rate_of_sound = {"bit_rate": 128_000} if audio and audio.startswith("wma") else {}
        sound = container.add_stream(audio, rate=44100, **rate_of_sound) if audio else None
        for i, image in enumerate(frames):
            frame = reformatter.reformat(
                av.VideoFrame.from_ndarray(image, format="rgb24"),
                format=pix_fmt,
                dst_colorspace=colorspace or Colorspace.ITU601,
                dst_color_range=color_range,
                interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
            )
            frame.pts = i if pts is None else pts[i]
            frame.time_base = time_base or 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            _write_tone(container, sound, float(len(frames) / rate), audio_start)
    return path


def write_sound(path: Path, seconds: float = 1.0, codec: str = "aac") -> Path:
    """A file with sound and no pictures."""
    with av.open(str(path), "w") as container:
        _write_tone(container, container.add_stream(codec, rate=44100), seconds, 0)
    return path


def packets(path: Path, kind: str = "audio") -> list[tuple[int, int, bytes]]:
    """(pts, dts, bytes) of every packet of the first stream of that kind."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [(p.pts, p.dts, bytes(p)) for p in container.demux(stream) if p.size]


def cut(path: Path, share: float, name: str) -> Path:
    """A copy that ends after that share of the bytes."""
    target = path.with_name(name)
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def skip_packets(path: Path, count: int, name: str) -> Path:
    """A copy without the first video packets, so that it does not begin with a key frame."""
    target = path.with_name(name)
    with av.open(str(path)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        for number, packet in enumerate(old.demux(old.streams.video[0])):
            if packet.size and number >= count:
                packet.stream = stream
                new.mux(packet)
    return target


def _write_tone(
    container: av.container.OutputContainer, stream: av.AudioStream, seconds: float, start: int
) -> None:
    size = 1024
    for i in range(int(seconds * 44100 / size)):
        t = (np.arange(size) + i * size) / 44100
        wave = (0.3 * np.sin(2 * np.pi * (440 + 20 * i) * t)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
        frame.rate, frame.pts, frame.time_base = 44100, start + i * size, Fraction(1, 44100)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def remux(source: Path, target: Path, change) -> Path:
    """A copy of all packets, each as `change(kind, number, packet)` returns it; None leaves it out."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = {stream.index: new.add_stream_from_template(stream, opaque=True) for stream in old.streams}
        counts = dict.fromkeys(streams, -1)
        for packet in old.demux():
            if packet.size == 0:
                continue
            counts[packet.stream_index] += 1
            index, kind = packet.stream_index, packet.stream.type
            if (packet := change(kind, counts[index], packet)) is not None:
                packet.stream = streams[index]
                new.mux(packet)
    return target


def replaced(packet: av.Packet, data: bytes) -> av.Packet:
    """A packet of other bytes at the same time."""
    new = av.Packet(data)
    new.time_base, new.pts, new.dts, new.duration = packet.time_base, packet.pts, packet.dts, packet.duration
    new.is_keyframe = packet.is_keyframe
    return new


def pass_through(source: Path, target: Path, scale: int = 1, **options) -> Path:
    """Reads a file as `upscale` does and writes its frames, enlarged by repeating pixels."""
    from star_jax.video.images import open_source, open_target

    reading = {name: options.pop(name) for name in ("strict", "deinterlace") if name in options}
    reader = open_source(source, depth=None, **reading)
    info = reader.info
    size = {"width": info.width * scale, "height": info.height * scale}
    options = {"crf": 8, "preset": "ultrafast"} | options
    with open_target(target, **size, frame_rate=info.frame_rate, source=info, **options) as writer:
        for frames, pts in reader.chunks(4):
            writer.write(frames.repeat(scale, 1).repeat(scale, 2), pts)
    return target


def shown(path: Path, stream: int = 0) -> list[tuple[float, float]]:
    """(time, duration) in seconds of every decoded frame, as PyAV alone reads them."""
    with av.open(str(path)) as container:
        frames = [(f.pts * f.time_base, f.duration * f.time_base) for f in container.decode(video=stream)]
    return [(round(float(time), 4), round(float(duration), 4)) for time, duration in frames]


def sound_times(path: Path) -> list[float]:
    """Times in seconds of every packet of sound."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return [float(p.pts * p.time_base) for p in container.demux(stream) if p.size]
