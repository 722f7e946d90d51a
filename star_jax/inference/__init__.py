"""Upscaling.

pipeline.StarPipeline           frames in, frames out
files.upscale                   files in, files out, in bounded memory
settings.UpscaleSettings        settings of an upscale
memory.plan_memory              the largest tiles and windows that fit
color_fix, pieces, overlap      the parts of the pipeline
compile_cache                   compiled programs kept between runs
"""
