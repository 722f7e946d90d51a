"""Real-world degradations of video: blur, resize, noise, JPEG and codecs, drawn from recipes."""

from star_jax.data.degradations.apply import degrade
from star_jax.data.degradations.recipes import RECIPES, Recipe, get_recipe

__all__ = ["RECIPES", "Recipe", "degrade", "get_recipe"]
