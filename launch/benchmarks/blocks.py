"""Search for the fastest block sizes of flash attention on this TPU.

  star-jax benchmark blocks --json blocks.json
  star-jax benchmark blocks --lengths 14400:5,3680:10,960:20 --write

Flash attention works on blocks of queries and keys. The best number of tokens in a block depends on the sequence
length (a length that is not a multiple of it needs padding, which is wasted work) and on the chip. Every size is
measured, first forward and then backward. --write stores the fastest ones in the table by device kind that every
program reads.
"""

import argparse
import math

HELP = "search for the fastest block sizes of a TPU's flash attention"
_LENGTHS = "14400:5,3680:10,960:20"  # the levels of STAR's network at 720x1280


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lengths",
        default=_LENGTHS,
        metavar="TOKENS:HEADS,...",
        help=f"sequence lengths to search for (default {_LENGTHS}: STAR at 720x1280)",
    )
    parser.add_argument(
        "--head-dim", type=int, default=64, metavar="N", help="channels of a head (default 64)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="number of timings of each size (default 3)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all timings to this file")
    parser.add_argument(
        "--write", action="store_true", help="store the fastest sizes for this kind of device"
    )


def run(args: argparse.Namespace) -> None:
    import dataclasses

    from star_jax.benchmark.attention_blocks import BlockTiming, search_blocks
    from star_jax.benchmark.report import describe_run
    from star_jax.errors import InputError
    from star_jax.files import check_report_path, write_json
    from star_jax.ops.splash_blocks import TABLE_FILE, write_table

    lengths = _parse(args.lengths)
    if args.repeats < 1:
        raise InputError(f"--repeats is {args.repeats}; choose at least 1")
    if args.json:
        check_report_path(args.json, ".json")
    environment = describe_run()
    if (backend := environment["hardware"]["backend"]) != "tpu":
        raise InputError(
            f"these block sizes are for flash attention on TPUs, but this is a {backend}; run it on a TPU"
        )
    rows = []

    def on_timing(timing: BlockTiming) -> None:
        sizes = dataclasses.asdict(timing.blocks)
        names = ("query", "key") if timing.direction == "forward" else ("query_backward", "key_backward")
        shown = "x".join(str(sizes[name]) for name in names)
        milliseconds = "does not fit" if math.isinf(timing.seconds) else f"{1e3 * timing.seconds:.3f} ms"
        print(f"{timing.length:>6} {timing.direction:<8} {shown:>9} {milliseconds:>12}", flush=True)
        rows.append(
            dataclasses.asdict(timing) | {"seconds": None if math.isinf(timing.seconds) else timing.seconds}
        )

    found = search_blocks(lengths, head_dim=args.head_dim, repeats=args.repeats, on_timing=on_timing)
    for length, blocks in found.items():
        print(f"{length} tokens: {blocks}")
    if args.json:
        fastest = {str(length): dataclasses.asdict(blocks) for length, blocks in found.items()}
        write_json(args.json, {"benchmark": "blocks", "rows": rows, "fastest": fastest} | environment)
    if args.write:
        write_table(environment["hardware"]["device_kind"], found)
        print(f"stored in {TABLE_FILE}")


def _parse(text: str) -> dict[int, int]:
    """Number of tokens -> number of heads."""
    from star_jax.errors import InputError

    lengths: dict[int, int] = {}
    try:
        for part in text.split(","):
            tokens, heads = part.split(":")
            lengths[int(tokens)] = int(heads)
    except ValueError:
        lengths = {}
    if not lengths or min(*lengths, *lengths.values()) < 1:
        raise InputError(f"--lengths is {text!r}; write TOKENS:HEADS,... such as {_LENGTHS}")
    return lengths
