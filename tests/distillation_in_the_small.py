"""The ladder of distillation in numbers, on a network of 25,000 weights: python tests/distillation_in_the_small.py

Clips are textures that move, of 4 frames of 24x24; the low resolution is a fourth of that, with noise. A caption
says how strong the texture is, so that there is something to guide by. A teacher is trained as STAR is, then every
rung with its objective, each from the one before. Printed are, over 64 clips that none has seen and 64 others:

  PSNR        to the ground truth, dB
  energy      spectral energy above 1/8 cycle per pixel, in per cent of the truth's
  flicker     mean absolute difference of neighbouring frames' change from the truth's change, levels

and FOLDER/clips.png shows a frame of six clips, and the next, from every model. Run again after an interruption, it
goes on with the first rung that was not finished. It is no test: what it shows depends on chance.
"""

import argparse
import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from star_jax.checkpoints.directory import PROVENANCE_FILE, create_checkpoint, save_component
from star_jax.config import ArchitectureConfig, SamplingConfig
from star_jax.data.config import DataConfig
from star_jax.diffusion.guidance import make_conditioning
from star_jax.diffusion.losses import LossConfig
from star_jax.diffusion.noise import noise_key
from star_jax.diffusion.sampler import sample
from star_jax.diffusion.windows import make_windows
from star_jax.init.random_checkpoint import random_checkpoint
from star_jax.models.architectures import register
from star_jax.models.chunks import independent_chunks
from star_jax.models.layers import Conv2d, timestep_embedding
from star_jax.models.posterior import DiagonalGaussian
from star_jax.models.size_rule import SizeRule
from star_jax.models.video_model import MemoryUse, VideoModel
from star_jax.parallel.mesh import MeshConfig, make_mesh
from star_jax.parallel.weights import param_shardings
from star_jax.presets import PRESETS
from star_jax.train.config import ExperimentConfig, ModelConfig, OptimizerConfig, TrainConfig
from star_jax.train.distill.config import (
    DualStreamConfig,
    DualStreamExperiment,
    GuidanceConfig,
    GuidanceExperiment,
    OneStepConfig,
    OneStepExperiment,
)
from star_jax.train.experiments import make_objective
from star_jax.train.optimizer import make_optimizer
from star_jax.train.state import new_state
from star_jax.train.step import jit_train_step, make_train_step, with_shardings
from star_jax.train.turns import turns_of

WIDTH, BLOCKS, FRAMES, SIZE, SCALE = 24, 3, 4, 24, 4
WORDS = {"": 0, "fine": 1, "rough": 2}
STEPS, GUIDANCE, TIMESTEP = 8, 2.0, 899
OFF = LossConfig("off", decode_group=FRAMES)


class Network(nnx.Module):
    """Residual convolutions within frames and along them, told timestep and word."""

    def __init__(self, **kwargs):
        self.time, self.word = nnx.Linear(WIDTH, WIDTH, **kwargs), nnx.Linear(3, WIDTH, **kwargs)
        self.conv_in, self.conv_out = Conv2d(6, WIDTH, 3, **kwargs), Conv2d(WIDTH, 3, 3, **kwargs)
        self.within = nnx.List([Conv2d(WIDTH, WIDTH, 3, **kwargs) for _ in range(BLOCKS)])
        self.along = nnx.List([nnx.Linear(3 * WIDTH, WIDTH, **kwargs) for _ in range(BLOCKS)])
        self.told = nnx.List([nnx.Linear(WIDTH, WIDTH, **kwargs) for _ in range(BLOCKS)])

    def __call__(self, x, timesteps, word, hint):
        told = jax.nn.silu(self.time(timestep_embedding(timesteps, WIDTH)) + self.word(word))
        x, features = self.conv_in(jnp.concatenate([x, hint], -1)), []
        for within, along, tell in zip(self.within, self.along, self.told, strict=True):
            h = within(jax.nn.silu(x + tell(told)[:, None, None, None]))
            padded = jnp.pad(jax.nn.silu(h), ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
            x = x + along(jnp.concatenate([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], -1))
            features.append(x)
        return self.conv_out(jax.nn.silu(x)), tuple(features)


class Codec(nnx.Module):
    def __init__(self, *, param_dtype, **_):
        self.scale = nnx.Param(jnp.ones((1,), param_dtype))


class Small(VideoModel):
    network_components, autoencoder_components, text_components = ("network",), ("codec",), ("words",)
    context_shape, latent_channels, has_own_tokenizer = (1, 3), 3, True
    size_rule = SizeRule(pixels_per_latent=1, step=4)

    def build(self, component, **kwargs):
        return (Network if component == "network" else Codec)(**kwargs)

    def memory_use(self, platform):
        return MemoryUse(1, 1, 1)

    def write_tokenizer(self, checkpoint):
        pass

    def tokenize(self, tokenizer, prompts):
        return np.array([[WORDS[prompt]] for prompt in prompts], np.int32)

    def encode_text(self, params, input_ids):
        return jax.nn.one_hot(input_ids, 3)

    def encode_chunks(self, num_frames):
        return (num_frames,)

    def decode_chunks(self, num_frames, overlap=0):
        return independent_chunks(num_frames, num_frames)

    def encode(self, params, frames, carry=None):
        return DiagonalGaussian(2 * frames, jnp.full_like(frames, -30.0)), carry

    def decode(self, params, latents, carry=None):
        return latents / 2, carry

    def velocity(self, *args, dropout_key=None):
        return self.features(*args)[0]

    def features(self, params, x, timesteps, conditioning, hint):
        return self.bind(params, "network")(x, timesteps, conditioning[:, 0], hint)


@dataclass(frozen=True)
class SmallConfig(ArchitectureConfig):
    architecture: str = "small"


Small.config_type = SmallConfig
register("small", Small)
PRESETS["small"] = SmallConfig("small", sampling=SamplingConfig(STEPS, GUIDANCE, color_fix="none"))


def make_clips(count: int, seed: int) -> dict[str, np.ndarray]:
    """Textures that move by whole pixels; a batch as objectives take it."""
    random = np.random.default_rng(seed)
    rough = random.random(count) < 0.5
    side = SIZE + 2 * FRAMES
    smooth = _blurred(random.standard_normal((count, side, side, 3)), 4.0) * 14
    texture = random.standard_normal((count, side, side, 1))
    texture = _blurred(texture, 0.7) - _blurred(texture, 1.6)
    canvas = 0.4 * smooth + np.where(rough, 0.8, 0.3)[:, None, None, None] * texture
    moves = random.integers(-2, 3, (count, 2))
    frames = np.stack(
        [
            np.stack([np.roll(one, tuple(f * move), (0, 1))[:SIZE, :SIZE] for f in range(FRAMES)])
            for one, move in zip(canvas, moves, strict=True)
        ]
    )
    frames = np.clip(frames, -1, 1)
    small = SIZE // SCALE
    lq = frames.reshape(count, FRAMES, small, SCALE, small, SCALE, 3).mean((3, 5))
    lq += 0.05 * random.standard_normal(lq.shape)
    dropped = random.random(count) < 0.2
    return {
        "gt": _levels(frames),
        "lq": _levels(lq),
        "index": np.arange(count, dtype=np.int32) + count * seed,
        "input_ids": np.where(dropped, 0, 1 + rough).astype(np.int32)[:, None],
        "negative_ids": np.zeros((count, 1), np.int32),
        "told": (1 + rough).astype(np.int32)[:, None],
    }


def _levels(frames):
    return np.rint((np.clip(frames, -1, 1) + 1) * 127.5).astype(np.uint8)


def _blurred(x, sigma):
    reach = np.fft.fftfreq(x.shape[1])
    gain = np.exp(-2 * (np.pi * sigma) ** 2 * (reach[:, None] ** 2 + reach[None] ** 2))
    return np.fft.ifft2(np.fft.fft2(x, axes=(1, 2)) * gain[None, :, :, None], axes=(1, 2)).real


def train_rung(config: ExperimentConfig, name: str, folder: Path) -> Path:
    """Trains, and writes the moving average as a checkpoint directory, unless it is there from an earlier run."""
    target, made_by = folder / name, _digest(config)
    if target.exists() and _provenance(target).get("made_by") == made_by:
        print(f"{name} is there", flush=True)
        return target
    objective, mesh = make_objective(config), make_mesh(MeshConfig(), jax.devices()[:1])
    optimizer = make_optimizer(config.optimizer, config.train.num_steps, turns_of(objective))
    trees = [with_shardings(tree, param_shardings(mesh, tree)) for tree in objective.abstract_params()]
    params, frozen = objective.load(*trees)
    state = new_state(params, optimizer, ema_decay=config.train.ema_decay)
    state = jax.device_put(state, param_shardings(mesh, state))  # as steps return it, or they compile twice
    step = jit_train_step(
        make_train_step(objective, optimizer, config.train), mesh, jax.eval_shape(lambda: state)
    )
    wanted, began, sums = objective.abstract_batch(1).keys(), time.time(), {}
    taught, seed = name != "teacher", config.train.seed
    with jax.set_mesh(mesh):
        for number in range(config.train.num_steps):
            clips = make_clips(config.train.batch_size, 1000 + number + 100_000 * seed)
            if taught:  # captions are not dropped
                clips["input_ids"] = clips["told"]
            batch = {key: clips[key] for key in wanted}
            state, metrics = step(state, frozen, batch, noise_key(seed))
            for key, value in metrics.items():
                sums.setdefault(key, []).append(float(value))
    last = {key: np.nanmean(values[-100:]) for key, values in sums.items() if key.startswith("loss")}
    print(
        name, f"{time.time() - began:.0f} s", {key: f"{value:.4f}" for key, value in last.items()}, flush=True
    )
    provenance = {"preset": "small", "components": {}, "made_by": made_by}
    with create_checkpoint(target, objective.model.config, provenance, force=True) as partial:
        save_component(partial, "network", jax.device_get(state.ema_params["network"]))
        for component in ("codec", "words"):
            save_component(partial, component, jax.device_get(frozen[component]))
    return target


def _digest(config: ExperimentConfig) -> str:
    """Of the settings, and of those that what it starts from was trained with."""
    origin = _provenance(Path(config.model.checkpoint)).get("made_by", "")
    return hashlib.sha256(f"{origin} {config}".encode()).hexdigest()


def _provenance(checkpoint: Path) -> dict:
    return json.loads((checkpoint / PROVENANCE_FILE).read_text())


def restore(checkpoint: Path, clips: dict, *, steps: int, guidance: float) -> np.ndarray:
    """What a model makes of the low resolution, levels."""
    from star_jax.inference.pipeline import StarPipeline

    pipeline = StarPipeline.from_pretrained(checkpoint, dtype="float32")
    model, params = pipeline.model, pipeline.params
    table = model.solver_table(solver="dpmpp_2m_sde", spacing="normal", num_inference_steps=steps)
    assert len(table) == steps
    hint = model.encode(params, model.enlarge(jnp.asarray(clips["lq"]), (SIZE, SIZE)))[0].mode()
    text, none = (model.encode_text(params, clips[key]) for key in ("told", "negative_ids"))
    conditioning = make_conditioning(
        text, hint, none, guidance_scale=guidance, guidance_rescale=model.config.diffusion.guidance_rescale
    )
    key = noise_key(0)
    latents = sample(
        model, params, model.start(hint, key), table, conditioning, key, windows=make_windows(FRAMES, FRAMES)
    )
    return _levels(np.asarray(model.decode(params, latents)[0]))


def report(name: str, output: np.ndarray, clips: dict, evaluations: int) -> None:
    truth, output = (frames / 127.5 - 1 for frames in (clips["gt"], output))
    psnr = np.mean(10 * np.log10(4 / np.square(output - truth).mean((1, 2, 3, 4))))
    energy = _high(output) / _high(truth)
    flicker = 127.5 * np.abs(np.diff(output, axis=1) - np.diff(truth, axis=1)).mean()
    figures = f"PSNR {psnr:6.2f}  energy {100 * energy:6.1f} %  flicker {flicker:6.2f}"
    print(f"{name:24} evaluations {evaluations:3}  {figures}", flush=True)


def draw(rows: dict[str, np.ndarray], path: Path, *, clips: int = 6, enlarged: int = 4) -> None:
    """A row for each result: two neighbouring frames of some clips."""
    pictures = []
    for name, frames in rows.items():
        row = frames[:clips, 1:3].repeat(enlarged, 2).repeat(enlarged, 3)
        row = np.pad(row, ((0, 0), (0, 0), (2, 2), (2, 2), (0, 0)), constant_values=255)
        label = np.full((row.shape[2], 200, 3), 255, np.uint8)
        cv2.putText(label, name, (4, 56), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        pictures.append(np.concatenate([label, *row.reshape(-1, *row.shape[2:])], 1))
    cv2.imwrite(str(path), np.concatenate(pictures)[..., ::-1])


def _high(frames):
    power = np.square(np.abs(np.fft.fft2(frames, axes=(2, 3)))).mean((0, 1, 4))
    reach = np.fft.fftfreq(SIZE)
    return power[np.hypot(reach[:, None], reach) > 1 / 8].sum()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--teacher-steps", type=int, default=2500)
    parser.add_argument("--rung-steps", type=int, default=400)
    parser.add_argument("--dual-steps", type=int, default=1350)
    parser.add_argument(
        "--dual-seeds", type=int, nargs="+", default=[0], help="a run of dual_stream for each"
    )
    args = parser.parse_args()
    folder, count = args.folder, args.rung_steps
    folder.mkdir(parents=True, exist_ok=True)
    held_out, others = make_clips(64, 1), make_clips(64, 2)
    random_checkpoint(folder / "start", "small", force=True)
    rows = {"truth": held_out["gt"], "low resolution": held_out["lq"].repeat(SCALE, 2).repeat(SCALE, 3)}
    report("low resolution", rows["low resolution"], held_out, 0)
    report("  other clips", others["lq"].repeat(SCALE, 2).repeat(SCALE, 3), others, 0)

    def show(name: str, checkpoint: Path, steps: int, guidance: float = 1.0) -> None:
        rows[name] = restore(checkpoint, held_out, steps=steps, guidance=guidance)
        evaluations = steps * (1 if guidance == 1 else 2)
        report(name, rows[name], held_out, evaluations)
        output = restore(checkpoint, others, steps=steps, guidance=guidance)
        report("  other clips", output, others, evaluations)
        draw(rows, folder / "clips.png")

    teacher = train_rung(
        ExperimentConfig(**_groups(folder / "start", args.teacher_steps, 3e-3), diffusion=OFF),
        "teacher",
        folder,
    )
    show("teacher, guided", teacher, STEPS, GUIDANCE)
    show("teacher, unguided", teacher, STEPS)
    show("teacher, one step", teacher, 1)

    guided = GuidanceConfig(guidance_scale=GUIDANCE, positive_prompt="", negative_prompt="")
    student = train_rung(
        GuidanceExperiment(**_groups(teacher, count, 1e-3), diffusion=OFF, distill=guided), "guidance", folder
    )
    show("guidance", student, STEPS)

    latent = OneStepConfig(timestep=TIMESTEP, positive_prompt="")
    student = train_rung(
        OneStepExperiment(**_groups(student, count, 2e-3), diffusion=OFF, distill=latent), "one_step", folder
    )
    show("one_step", student, 1)
    pixels = dataclasses.replace(latent, latent_weight=0.0, pixel_weight=1.0, difference_weight=1.0)
    for name, loss in (("off", OFF), ("on", LossConfig("direct", decode_group=FRAMES))):
        trained = train_rung(
            OneStepExperiment(**_groups(student, count // 2, 1e-3), diffusion=loss, distill=pixels),
            f"pixels-{name}",
            folder,
        )
        show(f"one_step_pixels, DF {name}", trained, 1)

    dual = DualStreamConfig(
        timestep=TIMESTEP,
        positive_prompt="",
        negative_prompt="",
        teacher=str(teacher),
        guidance_scale=GUIDANCE,
        latent_weight=0.0,
        difference_weight=0.225,
        student_every=3,
        head_channels=16,
        head_learning_rate=2e-3,
    )
    for seed in args.dual_seeds:
        name = f"dual_stream-{seed}"
        groups = _groups(student, args.dual_steps, 1e-3, batch_size=8, ema_decay=0.98, seed=seed)
        matching = dataclasses.replace(OFF, first_timestep=20, last_timestep=980)
        trained = train_rung(DualStreamExperiment(**groups, diffusion=matching, distill=dual), name, folder)
        show(f"dual_stream, seed {seed}", trained, 1)


def _groups(
    checkpoint: Path,
    num_steps: int,
    learning_rate: float,
    *,
    batch_size: int = 16,
    ema_decay: float = 0.99,
    seed: int = 0,
) -> dict:
    """What the rungs have in common."""
    return {
        "train": TrainConfig(num_steps, batch_size, seed=seed, ema_decay=ema_decay, remat="none"),
        "data": DataConfig("synthetic:4", num_frames=FRAMES, frame_interval=1, height=SIZE, width=SIZE),
        "model": ModelConfig("small", checkpoint=str(checkpoint), dtype="float32"),
        "optimizer": OptimizerConfig(learning_rate, "cosine", 50, b2=0.99, weight_decay=0.0),
    }


if __name__ == "__main__":
    main()
