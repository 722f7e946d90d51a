"""Block sizes of flash attention on TPUs, by number of tokens: a table that measurements fill.

`star-jax benchmark blocks` measures every size on the device that it runs on; its --write stores the fastest here,
by device kind as JAX names it. The entries under `any` are not measured, nor is the 512 that other lengths get. The
kernel computes the padding, too: at 3,680 tokens, blocks of 768 would be 12% less work (at an unknown speed).
"""

import functools
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import jax

from star_jax.errors import InputError
from star_jax.files import write_json

TABLE_FILE = Path(__file__).with_name("splash_blocks.json")
LANES = 128  # blocks are multiples of this many tokens
LARGEST_PADDING = 0.1  # largest padding of a block size that is worth measuring, as a fraction of the length
_ANY = "any"
_DEFAULT = 512


@dataclass(frozen=True)
class Blocks:
    """Tokens in a block of queries and of keys, in the forward and in the backward pass."""

    query: int
    key: int
    query_backward: int
    key_backward: int

    def __post_init__(self):
        for size in asdict(self).values():
            if not isinstance(size, int) or size < LANES or size % LANES:
                raise InputError(f"an attention block has {size!r} tokens; choose a multiple of {LANES}")


def blocks_of(length: int) -> Blocks:
    """The blocks for a number of tokens: this TPU's entry of the table, else that of `any`, else the default."""
    table = read_table()
    kind = jax.devices()[0].device_kind if jax.default_backend() == "tpu" else _ANY
    for name in (kind, _ANY):
        if length in table.get(name, {}):
            return table[name][length]
    return Blocks(*(min(_DEFAULT, LANES * math.ceil(length / LANES)),) * 4)


def padding_of(blocks: Blocks, length: int) -> tuple[float, float]:
    """Padding of queries and of keys as fractions of the length; both passes' blocks divide the padded lengths."""
    both = (math.lcm(blocks.query, blocks.query_backward), math.lcm(blocks.key, blocks.key_backward))
    query, key = (math.ceil(length / size) * size / length - 1 for size in both)
    return query, key


def candidates(length: int, largest: int = 2048) -> list[int]:
    """Block sizes that are worth measuring: those that need little padding."""
    sizes = range(2 * LANES, largest + 1, LANES)
    few = [size for size in sizes if math.ceil(length / size) * size <= (1 + LARGEST_PADDING) * length]
    return few or [LANES * math.ceil(length / LANES)]


@functools.cache
def read_table() -> dict[str, dict[int, Blocks]]:
    """Device kind -> number of tokens -> blocks.

    Raises:
      InputError: the file is damaged.
    """
    try:
        table = json.loads(TABLE_FILE.read_text())
        return {
            kind: {int(length): Blocks(**sizes) for length, sizes in entries.items()}
            for kind, entries in table.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read {TABLE_FILE}: {error}; install star_jax again") from error


def write_table(device_kind: str, blocks: dict[int, Blocks]) -> None:
    """Adds the blocks of one device kind to the table.

    Raises:
      RunError: the file cannot be written.
    """
    table = dict(read_table())
    table[device_kind] = table.get(device_kind, {}) | blocks
    content = {
        kind: {str(length): asdict(entries[length]) for length in sorted(entries, reverse=True)}
        for kind, entries in sorted(table.items())
    }
    write_json(TABLE_FILE, content)
    read_table.cache_clear()
