"""Upscaling.

pipeline.StarPipeline           upscales frames
files.upscale                   upscales files, in bounded memory
settings.UpscaleSettings        settings of an upscale
memory.plan_memory              chooses the largest tiles and windows that fit
coding, denoising, color_fix    the stages of the pipeline
streaming                       upscales frames as they come
compile_cache                   keeps compiled programs between runs
"""
