"""Peak memory of converting large files, by the number of layers.

  python tests/convert/memory_drill.py FOLDER t5 6 12 24
  python tests/convert/memory_drill.py FOLDER star-cogvideox 2 4 42
  python tests/convert/memory_drill.py FOLDER system

Writes encoders of T5 of half the published width into FOLDER, a shard per layer, or STAR's file of CogVideoX-5B at
its full width with the first so many of 42 layers; their numbers are zeros, so that the files take no room. Each is
converted in a process of its own. `system` only writes a file: all of STAR on CogVideoX-5B as DeepSpeed saves it,
float32, 44.3 GB: transformer with its updates apart, text encoder and autoencoder. Attention of one layer and all
vectors are random in it, the rest is zeros.
"""

import gzip
import json
import re
import resource
import subprocess
import sys
from io import FileIO
from pathlib import Path

import numpy as np
import torch

WIDTH, HIDDEN, HEADS, BUCKETS, VOCABULARY = 2048, 5120, 32, 32, 32128
STAR_WIDTH = 3072


def layer_shapes(layer: int) -> dict[str, tuple[int, ...]]:
    block = f"encoder.block.{layer}.layer."
    shapes = {f"{block}0.SelfAttention.{name}.weight": (WIDTH, WIDTH) for name in "qkvo"}
    shapes |= {f"{block}1.DenseReluDense.{name}.weight": (HIDDEN, WIDTH) for name in ("wi_0", "wi_1")}
    shapes |= {f"{block}1.DenseReluDense.wo.weight": (WIDTH, HIDDEN)}
    return shapes | {f"{block}{i}.layer_norm.weight": (WIDTH,) for i in (0, 1)}


def write_zeros(path: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """A file of zeros in safetensors' format, without writing them; returns their bytes."""
    header, offset = {}, 0
    for key, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    return offset


def write_encoder(folder: Path, layers: int) -> int:
    """A folder of shards and their index; returns the bytes of all weights."""
    folder.mkdir(parents=True)
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    outer = {
        "shared.weight": (VOCABULARY, WIDTH),
        "encoder.final_layer_norm.weight": (WIDTH,),
        bias: (BUCKETS, HEADS),
    }
    shards = [outer, *(layer_shapes(layer) for layer in range(layers))]
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    total = sum(write_zeros(folder / name, shard) for name, shard in zip(names, shards, strict=True))
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


class Sparse(FileIO):
    """A file in which long pieces of zeros become holes."""

    def write(self, data) -> int:
        """Writes, or moves on."""
        if len(data) < 1 << 16 or np.frombuffer(data, np.uint8).any():
            return super().write(data)
        self.seek(len(data), 1)
        return len(data)


def star_shapes(part: str) -> dict[str, tuple[int, ...]]:
    tables = Path(__file__).parents[1] / "golden" / "cogvideox_shapes.json.gz"
    return {
        key: tuple(shape) for key, shape in json.loads(gzip.decompress(tables.read_bytes()))[part].items()
    }


def write_star(path: Path, layers: int) -> int:
    """STAR's file, float32, with its low-rank updates apart; returns the bytes of all weights."""
    layer = re.compile(r"(?:layers|adaLN_modulations|layernorm_list)\.(\d+)\.")
    chosen = {
        key: shape
        for key, shape in star_shapes("5b").items()
        if (found := layer.search(key)) is None or int(found[1]) < layers
    }
    return write_file(path, chosen)


def write_system(path: Path) -> int:
    """The whole system in one file, float32; returns the bytes of all weights."""
    from transformers import T5Config, T5EncoderModel

    sizes = T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        text = T5EncoderModel(sizes).state_dict()
    shapes = star_shapes("5b")
    shapes |= {f"conditioner.embedders.0.transformer.{key}": tuple(x.shape) for key, x in text.items()}
    shapes |= {f"first_stage_model.{key}": shape for key, shape in star_shapes("vae").items()}
    return write_file(path, shapes)


def write_file(path: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    from star_jax.convert.torch_file import write_torch

    rng = np.random.default_rng(0)

    def numbers(key: str, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) < 2 or ".7.attention." in key or ".7.layer.0." in key:
            return rng.standard_normal(shape, np.float32)
        return np.zeros(shape, np.float32)

    with Sparse(path, "w") as file:
        specs = {key: (shape, np.dtype(np.float32)) for key, shape in shapes.items()}
        write_torch(file, specs, (numbers(key, shape) for key, shape in shapes.items()))
    return sum(4 * int(np.prod(shape)) for shape in shapes.values())


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def convert(source: Path, destination: Path) -> None:
    from star_jax.convert.converter import convert_checkpoint

    before = peak_bytes()
    convert_checkpoint([source], destination, dtype="bfloat16", force=True, quiet=True)
    print(json.dumps({"before": before, "peak": peak_bytes()}))


def main(folder: Path, kind: str, layers: list[int]) -> None:
    for count in layers:
        source = folder / (f"t5-{count}" if kind == "t5" else f"star-{count}.pt")
        total = write_encoder(source, count) if kind == "t5" else write_star(source, count)
        command = [sys.executable, __file__, "--convert", str(source), str(folder / "made")]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        largest = WIDTH * HIDDEN if kind == "t5" else 4 * STAR_WIDTH**2
        mib = {"files": total, "largest leaf": 2 * count * largest, **found}
        print(count, "layers:", ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in mib.items()))


if __name__ == "__main__":
    if sys.argv[1] == "--convert":
        convert(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[2] == "system":
        print(f"{write_system(Path(sys.argv[1]) / 'system.pt') / 1e9:.2f} GB")
    else:
        main(Path(sys.argv[1]), sys.argv[2], [int(count) for count in sys.argv[3:]])
