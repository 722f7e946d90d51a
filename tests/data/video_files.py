"""Small video files for the data tests, good and bad."""

import av
import cv2
import numpy as np

from star_jax.data.made_up.synthetic import SyntheticVideo


def scene(index=0, num_frames=24, height=64, width=96):
    """A made-up clip, uint8 [F, H, W, 3]."""
    return SyntheticVideo(index, height, width, num_frames).read(0, num_frames, 1)


def write_video(path, frames, *, codec="libx264", pix_fmt="yuv420p", pts=None, crf="6", options=None):
    """Writes frames as a video; `pts` in 24ths of a second where the rate varies."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options={"crf": crf, **(options or {})})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)
            frame.pts = number if pts is None else pts[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(path):
    """An audio file without pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        samples = np.sin(np.arange(1024 * 20) * 0.05).astype(np.float32)
        for start in range(0, len(samples), 1024):
            frame = av.AudioFrame.from_ndarray(
                samples[None, start : start + 1024], format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = 44100, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_truncated(path, frames):
    """The first half of a file whose index is at its start, as a broken download leaves it."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "1"})
        stream.height, stream.width = frames.shape[1:3]
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def write_folder(folder, count, num_frames=24, **size):
    """`count` good videos with captions."""
    for index in range(count):
        write_video(folder / f"clip{index:02d}.mp4", scene(index, num_frames, **size))
        (folder / f"clip{index:02d}.txt").write_text(f"scene {index}")
    return folder


def sharpness(frames):
    return float(np.mean([cv2.Laplacian(frame, cv2.CV_32F).std() for frame in frames]))
