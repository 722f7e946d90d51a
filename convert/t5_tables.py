"""Table of T5's encoder, transformers' T5EncoderModel (or the encoder of a T5ForConditionalGeneration)."""

import dataclasses
from collections.abc import Collection

from star_jax.config.cogvideox import T5Config
from star_jax.convert.rules import DENSE_NO_BIAS, EMBEDDING, SAME, Module, Table

_ROOT = "text_encoder/"
_RMS_NORM = Module((("weight", "scale", SAME),))
# (source module, target module, kind) of a layer, in the order of transformers' state dict.
_LAYER = (
    *((f"layer.0.SelfAttention.{name}", f"attention/{name}", DENSE_NO_BIAS) for name in "qkvo"),
    ("layer.0.layer_norm", "attention_norm", _RMS_NORM),
    *(
        (f"layer.1.DenseReluDense.{name}", f"feed_forward/{name}", DENSE_NO_BIAS)
        for name in ("wi_0", "wi_1", "wo")
    ),
    ("layer.1.layer_norm", "feed_forward_norm", _RMS_NORM),
)
_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"


def t5_table(config: T5Config, keys: Collection[str]) -> Table:
    """The table of T5's encoder. The first layer stores the bias by relative position, which all layers use."""
    del keys
    rules = EMBEDDING.rules("shared", _ROOT + "shared")
    for i in range(config.num_hidden_layers):
        for source, target, kind in _LAYER:
            parts = kind.rules(f"encoder.block.{i}.{source}", f"{_ROOT}block/{target}")
            rules += [dataclasses.replace(rule, layer=i) for rule in parts]
            if i == 0 and source.endswith("SelfAttention.o"):
                rules += EMBEDDING.rules(_BIAS, _ROOT + "relative_attention_bias")
    rules += _RMS_NORM.rules("encoder.final_layer_norm", _ROOT + "final_layer_norm")
    others = r"(model|first_stage_model|decoder)\..+"
    return Table(tuple(rules), (others, r"encoder\.embed_tokens\.weight", r"lm_head\.weight"))
