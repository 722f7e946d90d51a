"""Inputs that each attention kernel accepts, from the kernels' own checks, and the choice that `auto` makes.

Every kernel here has a forward and a backward pass for every input that its row allows: `star_jax.ops.cudnn` and
`star_jax.ops.splash` pad the lengths that their kernels do not take.
"""

import dataclasses

import jax.numpy as jnp
from jax.typing import DTypeLike

from star_jax.ops.variants import variant_of

# Above this many logits per head (query length x key length) `auto` avoids materialising them. On a GPU only
# attention along frames stays below it: cuDNN's kernel is already faster at the coarsest level's tokens.
_MATERIALISE_LIMIT = {"cpu": 256 * 256, "gpu": 128 * 128, "tpu": 2048 * 2048}
_WIDEST_FLASH_HEAD = 256


@dataclasses.dataclass(frozen=True)
class KernelRules:
    """Inputs that a kernel accepts.

    Attributes:
      platform: platform on which it runs; None is any.
      dtypes: dtypes of queries, keys and values; None is any floating-point type.
      head_sizes: the only head sizes; empty where `head_multiple` and `head_limit` decide.
      head_multiple, head_limit: head sizes are multiples of `head_multiple`, up to `head_limit` (None: any).
      even_backward: the kernel's own backward pass takes even lengths only.
    """

    platform: str | None = None
    dtypes: tuple[str, ...] | None = None
    head_sizes: tuple[int, ...] = ()
    head_multiple: int = 1
    head_limit: int | None = None
    even_backward: bool = False


KERNEL_RULES: dict[str, KernelRules] = {
    "xla": KernelRules(),
    "chunked": KernelRules(),
    # jax/_src/cudnn/fused_attention_stablehlo.py, `check_layout`, `check_is_flash_attention` (jax 0.10, 0.11).
    # Hopper takes head sizes up to 256; every GPU that has the kernel takes 128.
    "cudnn": KernelRules("gpu", ("float16", "bfloat16"), head_multiple=8, head_limit=128, even_backward=True),
    # jax/experimental/pallas/ops/tpu/splash_attention: blocks are multiples of 128 lanes.
    "splash": KernelRules("tpu", head_sizes=(64, 128, 256)),
}
_DEVICE_NAMES = {"gpu": "an NVIDIA GPU", "tpu": "a TPU"}


def refusal(
    name: str, q_shape: tuple[int, ...], k_shape: tuple[int, ...], dtype: DTypeLike, platform: str
) -> str | None:
    """Reason why a kernel refuses [batch, length, heads, head_dim], with the remedy; None if it takes it."""
    rules, dtype = KERNEL_RULES[name], jnp.dtype(dtype)
    got = f"{dtype} {tuple(q_shape)}"
    if rules.platform not in (None, platform):
        device = _DEVICE_NAMES[rules.platform]
        return f"needs {device}, but this is a {platform} (input {got}); use 'xla' or 'chunked' instead"
    head_dim = q_shape[-1]
    if rules.dtypes is not None and str(dtype) not in rules.dtypes:
        return f"takes {' or '.join(rules.dtypes)}, got {got}; use --dtype bfloat16 or attention 'chunked'"
    if rules.head_sizes and head_dim not in rules.head_sizes:
        *most, last = map(str, rules.head_sizes)
        return f"takes head sizes {', '.join(most)} and {last}, got {got}; use 'chunked' instead"
    if head_dim % rules.head_multiple or (rules.head_limit and head_dim > rules.head_limit):
        return (
            f"takes head sizes that are multiples of {rules.head_multiple} up to {rules.head_limit}, got {got}; "
            "use 'chunked' instead"
        )
    return None


def choose_implementation(
    q_shape: tuple[int, ...], k_shape: tuple[int, ...], dtype: DTypeLike, platform: str
) -> str:
    """The kernel that `auto` stands for.

    Short sequences (attention along frames) use the device's variant of `short_attention`, or else materialise
    their logits. Long ones use the platform's flash kernel where it takes the input: `cudnn` in half precision on
    a GPU, `splash` on a TPU; otherwise `chunked`. A single head as wide as the VAE's, which no flash kernel takes,
    uses the device's variant of `wide_attention`.
    """
    preferred = []
    if q_shape[1] * k_shape[1] <= _MATERIALISE_LIMIT[platform]:
        preferred = [variant_of("short_attention", platform), "xla"]
    elif q_shape[-1] > _WIDEST_FLASH_HEAD:
        preferred = [variant_of("wide_attention", platform)]
    candidates = [*preferred, "cudnn", "splash", "chunked"]
    return next(name for name in candidates if refusal(name, q_shape, k_shape, dtype, platform) is None)
