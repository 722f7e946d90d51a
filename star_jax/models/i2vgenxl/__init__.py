"""STAR's first backbone: I2VGen-XL's video UNet with LIEM, steered by VideoControlNet."""
