"""The networks, one folder per family; modules take sizes and never see a mesh or a configuration file.

i2vgenxl/    UNet with LIEM and VideoControlNet
svd_vae/     Stable Video Diffusion's autoencoder
clip/        CLIP's text tower and its tokenizer
cogvideox/   CogVideoX's transformer with LIEM, and its autoencoder
t5/          T5's encoder
attention, layers, liem, resnet, stack   shared parts
"""
