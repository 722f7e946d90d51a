"""The toy architecture with text and features, for tests of distillation: two convolutions, compiled in no time."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from toy_architecture import Toy, ToyConfig

from star_jax.config import SamplingConfig
from star_jax.models.architectures import register
from star_jax.models.layers import Conv2d
from star_jax.presets import PRESETS

WIDTH, TOKENS = 8, 4


@dataclass(frozen=True)
class TaughtConfig(ToyConfig):
    architecture: str = "taught-toy"


class Network(nnx.Module):
    def __init__(self, **kwargs):
        self.text = nnx.Linear(WIDTH, WIDTH, **kwargs)
        self.time = nnx.Linear(1, WIDTH, **kwargs)
        self.conv_in = Conv2d(6, WIDTH, 3, **kwargs)
        self.conv_out = Conv2d(WIDTH, 3, 3, **kwargs)


class Words(nnx.Module):
    def __init__(self, **kwargs):
        self.table = nnx.Embed(256, WIDTH, **kwargs)


class Taught(Toy):
    config_type = TaughtConfig
    network_components = ("network",)
    text_components = ("words",)
    context_shape = (TOKENS, WIDTH)
    has_own_tokenizer = True

    def build(self, component, **kwargs):
        kinds = {"network": Network, "words": Words}
        return kinds[component](**kwargs) if component in kinds else super().build(component, **kwargs)

    def write_tokenizer(self, checkpoint):
        pass

    def tokenize(self, tokenizer, prompts):
        codes = [list(prompt.encode()[:TOKENS]) for prompt in prompts]
        return np.array([[*code, *(0,) * (TOKENS - len(code))] for code in codes], np.int32)

    def encode_text(self, params, input_ids):
        return self.bind(params, "words").table(input_ids)

    def velocity(self, *args, dropout_key=None):
        return self.features(*args)[0]

    def features(self, params, x, timesteps, conditioning, hint):
        network = self.bind(params, "network")
        text = network.text(conditioning.mean(1)) + network.time(timesteps[:, None] / 1000)
        x = network.conv_in(jnp.concatenate([x, hint], -1).astype(self.dtype))
        seen = jax.nn.silu(x + text[:, None, None, None])
        return network.conv_out(seen), (seen,)


register("taught-toy", Taught)
PRESETS["taught-toy"] = TaughtConfig(
    "taught-toy", sampling=SamplingConfig(2, guidance_scale=3.0, color_fix="none")
)
