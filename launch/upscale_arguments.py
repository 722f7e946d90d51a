"""Options of `star-jax upscale`."""

import argparse
from fractions import Fraction

from star_jax.presets import BUNDLED

X264_PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", nargs="+", metavar="IN", help="videos, images, folders of images, or folders of videos"
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help=".mp4, .mov or .mkv; folder/%%05d.png for the frames as images, .png for a single image; for several "
        "IN a folder, or a pattern such as out/{name}_x4.mkv ({folder} is the subfolder of IN)",
    )
    parser.add_argument(
        "--checkpoint",
        default=BUNDLED,
        metavar="DIR",
        help="directory made by star-jax convert or assemble (default: tiny-star, a small model in the package)",
    )
    parser.add_argument(
        "--compare",
        metavar="GT",
        help="ground truth of a single IN: writes OUT.png beside OUT, with enlarged input | output | ground truth",
    )
    parser.add_argument(
        "--report",
        metavar="PAGE.html",
        help="write a page that shows every clip before and after, with timings",
    )
    _add_run(parser.add_argument_group("run"))
    _add_picture(parser.add_argument_group("picture"))
    _add_sampling(parser.add_argument_group("sampling"))
    _add_device(parser.add_argument_group("device"))
    _add_file(parser.add_argument_group("file"))


def _add_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--start",
        metavar="FRAME|TIME",
        help="first frame, to try a part: 48, 2.5s or 1:02:03 (default: 0)",
    )
    group.add_argument("--frames", metavar="N|TIME", help="length of the part to upscale (default: all)")
    group.add_argument(
        "--scene-cuts",
        default="auto",
        metavar="auto|off|FILE",
        help="upscale each scene by itself: auto finds the cuts (default); FILE has the first frame of each new "
        "scene, one number per line",
    )
    group.add_argument("--recursive", action="store_true", help="look for videos in subfolders, too")
    group.add_argument("--skip-existing", action="store_true", help="skip inputs whose output exists")
    group.add_argument("--overwrite", action="store_true", help="replace existing outputs without a warning")
    group.add_argument(
        "--no-resume",
        action="store_true",
        help="start from the beginning, and store nothing to resume from",
    )
    group.add_argument(
        "--progress",
        default="auto",
        metavar="auto|json",
        help="a bar on a terminal and lines in a log, or events as lines of JSON on standard output",
    )
    group.add_argument("--quiet", action="store_true", help="show no progress, only warnings and errors")


def _add_picture(group: argparse._ArgumentGroup) -> None:
    size = group.add_mutually_exclusive_group()
    size.add_argument("--scale", type=float, default=4.0, help="output size / input size (default 4)")
    size.add_argument(
        "--resolution",
        type=int,
        metavar="PIXELS",
        help="length of the output's shorter side, such as 1080, instead of --scale; never less than the input's",
    )
    group.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="X",
        help="share of the result in the output; the rest is the enlarged input. Less than 1 softens pictures that "
        "are too sharp (default 1)",
    )
    group.add_argument(
        "--color-fix",
        metavar="NAME",
        help="adain, wavelet, flat-wavelet (which keeps areas of a single colour unchanged) or none (default: the "
        "checkpoint's, else adain); the tiny decoder needs none",
    )
    group.add_argument(
        "--decoder",
        default="auto",
        metavar="NAME",
        help="full (the autoencoder's), tiny (the checkpoint's light decoder) or auto (default): tiny if the "
        "checkpoint has one that also sees the input, and the scale is about 4",
    )
    group.add_argument(
        "--fidelity",
        type=float,
        metavar="X",
        help="what the tiny decoder favours, from 0 (detail that looks right) to 1 (closeness to the original; "
        "default: the checkpoint's)",
    )
    group.add_argument(
        "--color-source",
        default="input",
        metavar="NAME",
        help="source of the colours: input (default), or truth, the ground truth of --compare, as in STAR's "
        "released script for CogVideoX",
    )
    group.add_argument(
        "--padding",
        default="fit",
        metavar="NAME",
        help="fit repeats the border up to the next size that the network takes (default); original pads with "
        "white to at least 720x1280",
    )
    group.add_argument(
        "--frame-rate",
        type=_frame_rate,
        metavar="FPS",
        help="rate of a folder of images, such as 25 or 30000/1001 (default 24); a video keeps its own",
    )


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--prompt", default="", metavar="TEXT", help="description of the clip")
    group.add_argument(
        "--negative-prompt", default=None, metavar="TEXT", help="description of what to steer away from"
    )
    group.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="number of denoising steps (default: the checkpoint's, else 15)",
    )
    group.add_argument(
        "--spacing",
        default="auto",
        metavar="NAME",
        help="fast (4 coarse + 11 fine steps), normal (evenly), auto (default: fast for 15 steps)",
    )
    group.add_argument(
        "--solver", default="dpmpp_2m_sde", metavar="NAME", help="dpmpp_2m_sde (default) or heun"
    )
    group.add_argument(
        "--guidance", type=float, metavar="X", help="guidance scale (default: the checkpoint's, else 7.5)"
    )
    group.add_argument("--seed", type=int, default=0, help="seed of all noise (default 0)")
    group.add_argument(
        "--decode-overlap",
        type=int,
        metavar="FRAMES",
        help="number of additional frames decoded on each side of a group (default: the checkpoint's, or 0; 1 "
        "flickers less)",
    )
    group.add_argument(
        "--window",
        type=int,
        metavar="FRAMES",
        help="number of frames denoised together; longer clips are cut into half-overlapping windows (default: the "
        "checkpoint's, or 32)",
    )


def _add_device(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--dtype", default="auto", help="float32, bfloat16, float16, auto (default: float32 on a CPU only)"
    )
    group.add_argument(
        "--vae-dtype",
        default="auto",
        help="dtype of the VAE: float32, bfloat16, float16, auto (default: float32; decoding on a GPU float16)",
    )
    group.add_argument(
        "--attention", default="auto", metavar="NAME", help="auto, xla, chunked, cudnn or splash"
    )
    group.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="memory limit, such as 12GiB, to which tiles and windows are fitted (default: the device's memory)",
    )
    group.add_argument(
        "--tile",
        metavar="HxW",
        help="size in pixels of the tiles that are denoised (default: the largest that fit)",
    )
    group.add_argument(
        "--vae-tile",
        metavar="HxW",
        help="size in pixels of the tiles for encoding and decoding (default: the largest that fit)",
    )
    group.add_argument(
        "--compile-cache",
        metavar="DIR",
        help="folder for compiled programs (default ~/.cache/star_jax); '' keeps none",
    )


def _add_file(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--crf", type=float, default=17, help="quality, 0 (lossless) to 51 (default 17)")
    group.add_argument(
        "--preset", default="medium", choices=X264_PRESETS, help="the encoder's effort (default medium)"
    )
    group.add_argument(
        "--codec",
        metavar="NAME",
        help="h264, hevc, av1, vp9, prores or ffv1 (default: h264; hevc if IN has more than 8 bits)",
    )
    group.add_argument("--bit-depth", type=int, metavar="BITS", help="8, 10 or 12 (default: that of IN)")
    group.add_argument(
        "--pixel-format",
        metavar="NAME",
        help="pixel format, such as yuv444p or yuv422p10le (default: 4:2:0 of that depth)",
    )
    group.add_argument(
        "--deinterlace",
        default="auto",
        metavar="WHEN",
        help="auto (default: frames that are flagged as interlaced), on or off",
    )
    group.add_argument(
        "--strict",
        action="store_true",
        help="reject damaged inputs, whose damaged frames are otherwise left out",
    )


def _frame_rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not a frame rate; write it like 25 or 30000/1001")
    return rate
