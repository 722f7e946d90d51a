"""Reads the collectives within and between slices, and the kernels, from the text of a compiled program."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

_ITEM_BYTES = {"pred": 1, "s4": 1, "u4": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2}
_ITEM_BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16}
_KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|to_apply|calls|branch_computations)=\{?((?:%?[\w.\-]+(?:, )?)+)\}?")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
# TPUs send data to other slices through their hosts.
_TO_OTHER_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
# Pallas kernels on a TPU, which have their own names; cuDNN's attention and Pallas kernels on a GPU.
_KERNEL = re.compile(r'custom_call_target="(tpu_custom_call|__cudnn\$fmha\w+|__gpu\$xla\.gpu\.triton)"')
_LIMIT = re.compile(r" = [su]32\[\]\S* constant\((\d+)\)")


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind in one run of the program.

    Attributes:
      count: number of executions.
      bytes: total size of their results on one device; between slices, total size of what one device sends.
    """

    count: int
    bytes: int


@dataclass(frozen=True)
class ProgramText:
    """The result of `read_program`.

    Attributes:
      collectives: collectives between the devices of a slice, by kind.
      kernels: executions of hand-written kernels, by name.
      between_slices: traffic over the network between slices, by kind of collective.
    """

    collectives: dict[str, Traffic]
    kernels: dict[str, int]
    between_slices: dict[str, Traffic]


def read_program(text: str) -> ProgramText:
    """Counts collectives and kernels in `compiled.as_text()`.

    The body of a loop counts as often as it runs. The number of turns is the compiler's note on the loop or (for
    TPUs) the one constant in its condition, which a scan compares with the turn. Other loops count once.
    """
    times = _times_run(text)
    within, between = _Sum(), _Sum()
    kernels: Counter[str] = Counter()
    for computation, name, result, operation, line in _instructions(text):
        kind = operation.removesuffix("-start")
        if kind in _KINDS:
            within.add(kind, times[computation], _result_bytes(result, operation))
        elif operation == "send" and (transfer := _TO_OTHER_SLICES.search(line)):
            # The result is (data that is sent, a number, a token).
            sent = _result_bytes(result.partition(", u32[]")[0], operation)
            between.add(transfer[1].lower().replace("_", "-"), times[computation], sent)
        elif operation == "custom-call" and (target := _KERNEL.search(line)):
            name = name if target[1] == "tpu_custom_call" else target[1].strip("_")
            kernels[re.sub(r"(\.\d+|\.clone)+$", "", name)] += times[computation]
    return ProgramText(within.traffic(), dict(sorted(kernels.items())), between.traffic())


class _Sum:
    """Executions and bytes by kind of collective."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def add(self, kind: str, times: int, bytes_each: int) -> None:
        self._counts[kind] += times
        self._bytes[kind] += times * bytes_each

    def traffic(self) -> dict[str, Traffic]:
        return {
            kind: Traffic(count, self._bytes[kind]) for kind, count in sorted(self._counts.items()) if count
        }


def _instructions(text: str) -> Iterator[tuple[str, str, str, str, str]]:
    """Yields (computation, name, result type, operation, line)."""
    computation = ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            computation = header[2]
        elif instruction := _INSTRUCTION.match(line):
            name, result, operation = instruction.groups()
            yield computation, name, result, operation, line


def _times_run(text: str) -> dict[str, int]:
    """Number of times each computation runs."""
    entry = next((m[2] for m in map(_COMPUTATION.match, text.splitlines()) if m and m[1]), "")
    calls: dict[str, list[tuple[str, int]]] = defaultdict(list)
    limits: dict[str, list[int]] = defaultdict(list)
    for computation, *_, line in _instructions(text):
        if limit := _LIMIT.search(line):
            limits[computation].append(int(limit[1]))
    for computation, _, _, operation, line in _instructions(text):
        trips = _trips(line, limits) if operation == "while" else 1
        for called in _CALLED.finditer(line):
            names = [name.strip().lstrip("%") for name in called[1].split(",")]
            calls[computation] += [(name, trips) for name in names if name.strip()]
    times: Counter[str] = Counter()

    def visit(name: str, multiplier: int) -> None:
        times[name] += multiplier
        for called, trips in calls[name]:
            visit(called, multiplier * trips)

    visit(entry, 1)
    return times


def _trips(line: str, limits: dict[str, list[int]]) -> int:
    """Number of turns of a loop; `limits` are the constants in each computation."""
    if known := _TRIPS.search(line):
        return int(known[1])
    condition = _CONDITION.search(line)
    constants = limits[condition[1]] if condition else []
    return constants[0] if len(constants) == 1 else 1


def _result_bytes(result: str, operation: str) -> int:
    """Bytes of a collective's result; the start of an asynchronous one lists its operands first."""
    arrays = [_ITEM_BYTES.get(kind, 4) * math.prod(_sizes(sizes)) for kind, sizes in _ARRAY.findall(result)]
    if operation == "collective-permute-start":
        return arrays[1]
    if operation == "all-gather-start":
        return sum(arrays[len(arrays) // 2 :])
    return sum(arrays)


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",") if size]
