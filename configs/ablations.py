"""The paper's ablations (arXiv 2501.02976, tables 3, 4, 5 and 7), each a variant of configs/star_i2vgenxl.py:paper.

  star-jax train --config configs/ablations.py:liem_temporal --workdir runs/liem_temporal \\
      --config.model.checkpoint=checkpoints/venhancer --config.data.source=openvid.csv

Rows:
  liem_none, liem_spatial, liem_temporal, liem_both                     attention layers with LIEM
  liem_before_attention, liem_after_attention, liem_block_output        positions (i), (ii), (iii) of LIEM
  df_off, df_not_separated, df_inverse, df_direct                       variants of the frequency loss
  weight_linear, weight_exponential                                     form of its weight b(t)
  alpha_X, X one of 0.25, 0.5, 1, 1.5, 2                                exponent of c(t)
  beta_X, X one of 0.25, 0.75, 1, 1.5, 2                                b(0)
"""

import dataclasses

from star_jax.configs import star_i2vgenxl
from star_jax.errors import InputError
from star_jax.train.config import ExperimentConfig

ROWS = {
    "liem_none": {"model": {"liem_spatial": False, "liem_temporal": False}},
    "liem_spatial": {"model": {"liem_spatial": True, "liem_temporal": False}},
    "liem_temporal": {"model": {"liem_spatial": False, "liem_temporal": True}},
    "liem_both": {"model": {"liem_spatial": True, "liem_temporal": True}},
    **{
        f"liem_{position}": {"model": {"liem_position": position}}
        for position in ("before_attention", "after_attention", "block_output")
    },
    **{
        f"df_{form}": {"diffusion": {"frequency": form}}
        for form in ("off", "not_separated", "inverse", "direct")
    },
    **{f"weight_{form}": {"diffusion": {"schedule": form}} for form in ("linear", "exponential")},
    **{f"alpha_{alpha:g}": {"diffusion": {"alpha": alpha}} for alpha in (0.25, 0.5, 1.0, 1.5, 2.0)},
    **{f"beta_{beta:g}": {"diffusion": {"beta": beta}} for beta in (0.25, 0.75, 1.0, 1.5, 2.0)},
}


def get_config(row: str = "") -> ExperimentConfig:
    if row not in ROWS:
        raise InputError(f"ablation is {row!r}; write configs/ablations.py:ROW with one of {', '.join(ROWS)}")
    config = star_i2vgenxl.get_config("paper")
    changes = {
        group: dataclasses.replace(getattr(config, group), **keys) for group, keys in ROWS[row].items()
    }
    return dataclasses.replace(config, **changes)
