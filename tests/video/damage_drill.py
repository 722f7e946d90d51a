"""Damages small videos and pictures at random, reads each to its end and writes it, and counts what happens.

  python tests/video/damage_drill.py 500        # number of files; also SEED

Every file must be upscaled, refused in one line, or fail in one line; nothing half-written may be left, and nothing
may take longer than LIMIT seconds. What the counts mean is in docs/video.md.
"""

import contextlib
import faulthandler
import io
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from sample_videos import moving_frames, pass_through, write_video

from star_jax.errors import StarError

LIMIT = 30  # seconds for a clip of ten frames
KINDS = ("flip", "zero", "cut", "noise", "swap", "repeat")


def make_sources(folder: Path) -> list[Path]:
    """One small file of each kind that is read."""
    frames = moving_frames(10, 64, 48)
    videos = {
        "h264.mp4": {"audio": "aac"},
        "h264.mkv": {"audio": "aac"},
        "h264.ts": {"audio": "mp2"},
        "mpeg4.avi": {"codec": "mpeg4", "audio": "pcm_s16le"},
        "vp9.webm": {"codec": "libvpx-vp9"},
        "hevc.mp4": {"codec": "libx265"},
        "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
        "ffv1.mkv": {"codec": "ffv1"},
    }
    sources = [
        write_video(folder / name, frames, rate=Fraction(25), **given) for name, given in videos.items()
    ]
    for suffix in (".png", ".jpg", ".tif", ".bmp", ".webp"):
        cv2.imwrite(str(folder / f"still{suffix}"), frames[0])
        sources.append(folder / f"still{suffix}")
    images = [Image.fromarray(frame) for frame in frames[:4]]
    for name in ("animated.webp", "animated.gif", "animated.png"):
        images[0].save(folder / name, save_all=True, append_images=images[1:], duration=40)
        sources.append(folder / name)
    return sources


def damage(data: bytes, kind: str, other: bytes, rng: np.random.Generator) -> bytes:
    """A file with one kind of damage somewhere."""
    bytes_ = bytearray(data)
    at, length = int(rng.integers(len(data))), int(rng.integers(1, max(2, len(data) // 8)))
    if kind == "flip":
        for place in rng.integers(len(data), size=int(rng.integers(1, 30))):
            bytes_[place] ^= 1 << int(rng.integers(8))
    elif kind == "zero":
        bytes_[at : at + length] = bytes(len(bytes_[at : at + length]))
    elif kind == "cut":
        del bytes_[at:]
    elif kind == "noise":
        size = len(bytes_[at : at + length])
        bytes_[at : at + length] = rng.integers(0, 256, size).astype(np.uint8).tobytes()
    elif kind == "swap":  # the beginning of another kind of file
        bytes_[: length % 200] = other[: length % 200]
    else:
        bytes_[at:at] = bytes_[at : at + length]
    return bytes(bytes_)


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises TimeoutError when the block takes longer."""

    def stop(number, frame):
        raise TimeoutError(f"over {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(2 * seconds, file=sys.__stderr__, exit=True)  # which FFmpeg hears, too
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_one(source: Path, target: Path) -> str:
    """Outcome of one file: done, done with a note, refused, failed; anything else is a fault of ours."""
    said = io.StringIO()
    before = set(target.parent.iterdir())
    try:
        with contextlib.redirect_stderr(said), limited(LIMIT):
            pass_through(source, target)
    except StarError as error:
        if "\n" in str(error):
            return f"FAULT: {str(error)!r} is no line"
        if set(target.parent.iterdir()) != before:
            return "FAULT: something half-written is left"
        return "refused before any work" if error.exit_code == 2 else "failed in one line"
    except TimeoutError:
        return f"FAULT: {LIMIT} seconds and more"
    except Exception as error:
        return f"FAULT: {type(error).__name__}: {str(error)[:100]}"
    target.unlink()
    return "done, with a note of lost or damaged frames" if "note:" in said.getvalue() else "done"


def drill(count: int, seed: int = 0) -> tuple[Counter, list[tuple[str, str]], float]:
    """Damages `count` files; returns outcomes by number, the faults with the files' names, and the longest time."""
    rng = np.random.default_rng(seed)
    outcomes, faults, longest = Counter(), [], 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir(), (folder / "out").mkdir()
        sources = make_sources(folder / "in")
        contents = [source.read_bytes() for source in sources]
        for number in range(count):
            index, kind = number % len(sources), KINDS[number // len(sources) % len(KINDS)]
            other = contents[int(rng.integers(len(sources)))]
            bad = folder / f"{number:04d}_{kind}_{sources[index].name}"
            bad.write_bytes(damage(contents[index], kind, other, rng))
            is_still = sources[index].stem == "still"
            start = time.monotonic()
            outcome = try_one(bad, folder / "out" / ("out.png" if is_still else "out.mkv"))
            longest = max(longest, time.monotonic() - start)
            outcomes[outcome] += 1
            if outcome.startswith("FAULT"):
                faults.append((bad.name, outcome))
            bad.unlink()
    return outcomes, faults, longest


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    outcomes, faults, longest = drill(*given or [500])
    for outcome, number in outcomes.most_common():
        print(f"{number:4d}  {outcome}")
    print(f"longest: {longest:.1f} s")
    for fault in faults:
        print(*fault)
