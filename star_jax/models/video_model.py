"""`VideoModel`: the interface of a backbone, in one place.

The pipeline, training, validation, data preparation, the memory plan, ahead-of-time compilation and the benchmarks
ask a `VideoModel` and know none of its networks by name. A new backbone implements this class in a folder of its
own and is added to `star_jax.models.architectures`.

A model holds structure (sizes, dtypes, kernels) and never weights: methods take `params`, trees by component. It is
a frozen value, compared by what it holds, so that it can be a static argument of jitted programs: two equal models
find the same program.
"""

import abc
import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int, Key

from star_jax.config import ArchitectureConfig
from star_jax.diffusion.sampler import noised_latents
from star_jax.diffusion.schedule import NoiseSchedule
from star_jax.diffusion.solvers import SolverTable, solver_table
from star_jax.errors import InputError
from star_jax.models.chunks import Chunk
from star_jax.models.part import LayersToMeasure
from star_jax.models.posterior import DiagonalGaussian
from star_jax.models.rngs import InitRngs
from star_jax.models.size_rule import SizeRule
from star_jax.ops.attention import AttentionKernels
from star_jax.ops.pixels import enlarge, to_float

Params = dict[str, Any]  # component -> nested dicts of arrays
Carry = Any  # state that an autoencoder keeps from one chunk to the next: a pytree, or None

LIGHT_CHUNK = (
    3  # frames that a light decoder takes at once; with its memory, any number gives the same result
)
TOKENIZER_DIR = "tokenizer"  # folder in a checkpoint directory


@dataclass(frozen=True)
class MemoryUse:
    """Values that the compiled programs hold at once, fitted to what the compiler reports.

    Attributes:
      network: per latent, of one branch of guidance.
      encoder: per pixel of the frames of a chunk, in values of 4 bytes.
      decoder: per pixel of the frames of a chunk, in values of 4 bytes.
      light_decoder: the same of the light decoder, where the model has one.
    """

    network: float
    encoder: float
    decoder: float
    light_decoder: float = 0.0


@dataclass(frozen=True)
class VideoModel(abc.ABC):
    """A backbone: its networks, its autoencoder, and how it is sampled.

    Attributes:
      config: sizes, an instance of `config_type`.
      dtype: dtype of the networks' computation and weights; see `dtypes`.
      kernels: attention kernel of each site.
      remat: what training keeps of each block; see `star_jax.ops.remat`.
      vae_dtypes: dtypes in which the autoencoder's encoder and decoder compute when it is not trained; a backbone
        may support one only.
      training: whether the model is trained. An autoencoder that computes in float32 for upscaling may then compute
        in `dtype`, too.
    """

    config: Any
    dtype: jnp.dtype
    kernels: AttentionKernels
    remat: str
    training: bool
    vae_dtypes: tuple[jnp.dtype, jnp.dtype] = (jnp.dtype(jnp.float32),) * 2

    config_type: ClassVar[type[ArchitectureConfig]]
    # Whether `velocity` takes the conditioning of several branches of guidance with the shared part given once, and
    # computes once the part that does not depend on the text; see `guided_velocity`.
    takes_branches: ClassVar[bool] = False

    # Components: the networks by name, and their tasks.

    @property
    @abc.abstractmethod
    def network_components(self) -> tuple[str, ...]:
        """Components whose weights `condition` and `velocity` take."""

    @property
    @abc.abstractmethod
    def autoencoder_components(self) -> tuple[str, ...]:
        """Components whose weights `encode` and `decode` take."""

    @property
    def text_components(self) -> tuple[str, ...]:
        """Components whose weights `encode_text` takes; empty for a model without text."""
        return ()

    @property
    def light_components(self) -> tuple[str, ...]:
        """Components whose weights `decode_light` takes; empty for a model without a light decoder."""
        return ()

    @property
    def components(self) -> tuple[str, ...]:
        """All components, in the order in which they are listed."""
        return (
            self.network_components
            + self.autoencoder_components
            + self.light_components
            + self.text_components
        )

    def dtype_of(self, component: str) -> jnp.dtype:
        """The dtype of a component's computation and weights."""
        del component
        return self.dtype

    @property
    def autoencoder_dtypes(self) -> tuple[jnp.dtype, jnp.dtype]:
        """The dtypes in which the autoencoder's encoder and decoder compute."""
        return (self.dtype_of(self.autoencoder_components[0]),) * 2

    @abc.abstractmethod
    def build(
        self, component: str, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs
    ) -> nnx.Module:
        """One component with new weights."""

    def abstract(self, component: str) -> Params:
        """Shapes and dtypes of a component's weights, nested dicts of jax.ShapeDtypeStruct; no memory is used.

        Raises:
          InputError: there is no such component.
        """
        return self.split(component)[1]

    def abstract_params(self, components: Iterable[str] | None = None) -> Params:
        """Shapes and dtypes of several components' weights, by default of all components."""
        return {name: self.abstract(name) for name in (self.components if components is None else components)}

    def bind(self, params: Params, component: str) -> Any:
        """The component with the weights that `params` has for it."""
        return nnx.merge(self.split(component)[0], params[component])

    def split(self, component: str) -> tuple[nnx.GraphDef, Params]:
        """A component's structure, and the shapes of its weights; see `abstract` and `bind`.

        Raises:
          InputError: there is no such component.
        """
        if component not in self.components:
            raise InputError(
                f"preset {self.config.preset!r} has no component {component!r}; it has "
                f"{', '.join(self.components)}"
            )
        return _split(self, component)

    def is_trainable(self, path: str, *, train_base: bool = False) -> bool:
        """Whether training changes a weight.

        Args:
          path: component and path, such as `component/block/conv/kernel`.
          train_base: also the parts that the paper leaves as they were.
        """
        del train_base
        return path.split("/", 1)[0] in self.network_components

    def start_leaf(self, component: str, path: str, leaf: np.ndarray) -> np.ndarray:
        """A weight that no checkpoint gives, for a model that is trained from nothing.

        Args:
          component: name of the component.
          path: path of the weight in the component.
          leaf: weight as its layer initialises it.
        """
        del component, path
        return leaf

    # Sizes.

    @property
    @abc.abstractmethod
    def size_rule(self) -> SizeRule:
        """The clips that the model takes."""

    @property
    @abc.abstractmethod
    def latent_channels(self) -> int:
        """Channels of the latents that are sampled."""

    @abc.abstractmethod
    def memory_use(self, platform: str) -> MemoryUse:
        """The figures that the memory plan uses on `cpu`, `gpu` or `tpu`."""

    # Text.

    @property
    def has_text(self) -> bool:
        """Whether the model reads prompts."""
        return bool(self.text_components)

    @property
    @abc.abstractmethod
    def context_shape(self) -> tuple[int, int]:
        """(tokens, width) of one prompt's embeddings; for a model without text, of its null context."""

    @property
    def has_own_tokenizer(self) -> bool:
        """Whether `write_tokenizer` can write a tokenizer for the model's vocabulary."""
        return False

    def write_tokenizer(self, checkpoint: str | os.PathLike) -> None:
        """Writes a tokenizer into a checkpoint directory that is made from nothing."""
        raise self._reads_no_text()

    def load_tokenizer(self, checkpoint: str | os.PathLike) -> Any | None:
        """The tokenizer in a checkpoint directory; None for a model without text.

        Raises:
          InputError: a file is missing or damaged.
        """
        del checkpoint
        return None

    def tokenize(self, tokenizer: Any, prompts: Sequence[str]) -> Int[np.ndarray, "B L"]:
        """Token numbers of prompts, int32 [B, tokens]."""
        raise self._reads_no_text()

    def encode_text(self, params: Params, input_ids: Int[Array, "B L"]) -> Float[Array, "B L E"]:
        """Text embeddings [B, tokens, width] of token numbers int32 [B, tokens]."""
        raise self._reads_no_text()

    @property
    def text_dropout(self) -> float:
        """Share of training samples that get the context of the unconditional branch."""
        return 0.0

    def _reads_no_text(self) -> InputError:
        return InputError(f"preset {self.config.preset!r} reads no text; leave out the prompt")

    def unconditional_context(self, negative: jax.Array) -> jax.Array:
        """The embeddings for the unconditional branch of guidance, given those of the negative prompt."""
        return negative

    def empty_context(self, batch: int) -> Float[Array, "{batch} L E"]:
        """The context of a model without text: zeros [B, tokens, width]."""
        return jnp.zeros((batch, *self.context_shape), self.dtype)

    # The autoencoder.

    def enlarge(self, frames: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Low-resolution frames at the output's size, as the autoencoder takes them.

        Args:
          frames: uint8 or uint16 [..., h, w, 3].
          size: (H, W).

        Returns:
          float32 [..., H, W, 3] in [-1, 1].
        """
        return enlarge(to_float(frames), size)

    @abc.abstractmethod
    def encode_chunks(self, num_frames: int) -> tuple[int, ...]:
        """Numbers of frames that are encoded together, in order; in all at least `num_frames`."""

    @abc.abstractmethod
    def decode_chunks(self, num_frames: int, overlap: int = 0) -> tuple[Chunk, ...]:
        """The chunks in which a clip is decoded, in order.

        Args:
          num_frames: number of the clip's frames, padded to a length that the model takes.
          overlap: frames decoded before and after each chunk, to be dropped.

        Raises:
          InputError: the model takes no such overlap.
        """

    @abc.abstractmethod
    def encode(
        self, params: Params, frames: jax.Array, carry: Carry = None
    ) -> tuple[DiagonalGaussian, Carry]:
        """The posterior of a chunk's latents, and the carry for the next chunk.

        Args:
          params: weights of at least `autoencoder_components`.
          frames: [B, F, H, W, 3] in [-1, 1].
          carry: carry of the chunk before; None for a clip's first chunk.

        Returns:
          Mean and log variance of [B, f, h, w, latent_channels], unscaled; the carry.
        """

    def scaled(self, latents: jax.Array) -> jax.Array:
        """Latents as the network takes them (of about unit deviation), from the autoencoder's."""
        return latents

    @abc.abstractmethod
    def decode(self, params: Params, latents: jax.Array, carry: Carry = None) -> tuple[jax.Array, Carry]:
        """The frames of a chunk, and the carry for the next chunk.

        Args:
          params: weights of at least `autoencoder_components`.
          latents: [B, f, h, w, latent_channels], scaled.
          carry: carry of the chunk before; None for a clip's first chunk.

        Returns:
          [B, F, H, W, 3], roughly in [-1, 1], not clipped; the carry.
        """

    # The light decoder, where there is one.

    @property
    def light_sees_frames(self) -> bool:
        """Whether the light decoder sees the low-resolution frames, and so keeps their colours by itself."""
        return True

    @property
    def default_fidelity(self) -> float:
        """What the light decoder is given where the user says nothing."""
        raise self._has_no_light_decoder()

    def decode_light(
        self,
        params: Params,
        latents: jax.Array,
        low: jax.Array | None,
        fidelity: ArrayLike,
        carry: Carry = None,
    ) -> tuple[jax.Array, Carry]:
        """The frames of a chunk by the light decoder, and the carry for the next chunk.

        Args:
          params: weights of at least `light_components`.
          latents: [B, f, h, w, latent_channels], scaled.
          low: low-resolution frames [B, f, H / 4, W / 4, 3] in [-1, 1]; None where it does not see them.
          fidelity: 0 (detail that looks right) to 1 (nearness to what was there).
          carry: carry of the chunk before; None for a clip's first chunk.

        Returns:
          [B, F, H, W, 3], roughly in [-1, 1], not clipped; the carry.

        Raises:
          InputError: the model has none.
        """
        raise self._has_no_light_decoder()

    def _has_no_light_decoder(self) -> InputError:
        return InputError(f"preset {self.config.preset!r} has no light decoder; choose --decoder full")

    # The network, and how it is sampled.

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise levels of the diffusion process."""
        return NoiseSchedule.from_config(self.config.diffusion)

    @property
    def start_timestep(self) -> int:
        """The timestep at which sampling starts."""
        return self.config.diffusion.start_timestep

    def solver_table(self, *, solver: str, spacing: str, num_inference_steps: int) -> SolverTable:
        """The run of a solver from where the model starts.

        Raises:
          InputError: unknown solver or spacing, or a count out of range.
        """
        return solver_table(
            self.schedule,
            solver=solver,
            spacing=spacing,
            num_inference_steps=num_inference_steps,
            start_timestep=self.start_timestep,
        )

    def is_guided(self, guidance_scale: float) -> bool:
        """Whether the network is evaluated for two branches."""
        return self.has_text and guidance_scale != 1.0

    def guidance_scales(self, guidance_scale: float, table: SolverTable) -> float | np.ndarray:
        """Weight of the prompt: one number, or one for each row of the solver's table."""
        del table
        return guidance_scale

    def start(
        self, hint: Float[Array, "B F H W C"], key: Key[Array, ""], first_latent: int | Int[Array, ""] = 0
    ) -> Float[Array, "B F H W C"]:
        """Start of sampling, float32: the low-resolution latents [B, F, h, w, C], with noise or as they are.

        `first_latent` is the position in the clip of the first of them, by which the noise is keyed.
        """
        diffusion = self.config.diffusion
        if (
            diffusion.start == "hint"
        ):  # by what the sampler will scale it with, so that the network sees the hint
            return hint.astype(jnp.float32) / np.float32(self.schedule.sigmas[diffusion.start_timestep])
        return noised_latents(
            self.schedule, hint, key, start_timestep=diffusion.start_timestep, first_frame=first_latent
        )

    def condition(self, params: Params, text: jax.Array) -> Any:
        """Prepares text embeddings [B, tokens, width] for the network; the result holds for every step of sampling.

        Arrays whose first axis is B. `velocity` takes it, or the embeddings themselves.
        """
        del params
        return text

    @abc.abstractmethod
    def velocity(
        self,
        params: Params,
        x: jax.Array,
        timesteps: jax.Array,
        conditioning: Any,
        hint: jax.Array,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """The network's prediction of the velocity.

        Args:
          params: weights of at least `network_components`.
          x: noisy latents [B, F, h, w, C].
          timesteps: int32 [B].
          conditioning: text embeddings, or the result of `condition`.
          hint: low-resolution latents [B, F, h, w, C].
          dropout_key: None for inference.

        Returns:
          Like x, in the network's dtype.
        """

    def features(
        self, params: Params, x: jax.Array, timesteps: jax.Array, conditioning: Any, hint: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """The velocity, and activations [B, F, h, w, C] on the way to it, for a discriminator to look at.

        Args:
          params, x, timesteps, conditioning, hint: see `velocity`.

        Raises:
          InputError: the backbone hands out none.
        """
        raise InputError(
            f"preset {self.config.preset!r} hands out no features, which rung dual_stream needs; choose one that "
            "does, such as i2vgen-xl"
        )

    def layers_to_measure(self, latents: tuple[int, int, int]) -> LayersToMeasure:
        """Single layers at the size that latents (F, h, w) give them, in the model's dtypes.

        Raises:
          InputError: the backbone lists none.
        """
        raise InputError(
            f"preset {self.config.preset} lists no layers to measure one by one; choose one that does, such as "
            f"i2vgen-xl, or measure whole networks with star-jax benchmark inference"
        )

    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> jax.Array:
        """`velocity`: a model is a `VelocityFn`, by which a jitted sampler finds its program again."""
        return self.velocity(params, *args, **kwargs)


@functools.lru_cache(
    maxsize=64
)  # tracing a full-size network takes seconds; callers do not change the result
def _split(model: VideoModel, component: str) -> tuple[nnx.GraphDef, Params]:
    """Structure of a component, and the shapes of its weights."""
    dtype = model.dtype_of(component)

    def build() -> nnx.Module:
        return model.build(component, dtype=dtype, param_dtype=dtype, rngs=InitRngs(0))

    graphdef, state = nnx.split(nnx.eval_shape(build))
    return graphdef, jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), nnx.to_pure_dict(state)
    )
