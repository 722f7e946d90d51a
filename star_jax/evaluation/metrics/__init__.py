"""The scores, one file each; registry.py lists them."""
