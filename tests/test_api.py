"""The Python API: the main jobs as attributes of `star_jax`, loaded when they are first used."""

import inspect
import subprocess
import sys

import pytest
from sample_frames import moving_clip
from sample_videos import write_video

import star_jax
from star_jax.errors import InputError
from star_jax.video.reader import VideoReader


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, star_jax; assert not {'jax', 'flax', 'av', 'cv2', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", star_jax.__all__)
def test_every_job_is_there_and_documented(name):
    _, attribute = star_jax._JOBS[name]
    job = star_jax._load(name)
    assert job.__name__ == attribute and inspect.getdoc(job)
    assert callable(getattr(star_jax, name))


def test_packages_that_are_jobs_stay_packages():
    import star_jax.convert.converter
    import star_jax.train.workdir

    with pytest.raises(InputError, match="does not exist; give a file"):
        star_jax.convert(["nothing.pt"], "never-made")
    with pytest.raises(TypeError, match="workdir"):
        star_jax.train(config=None)


def test_no_other_attribute():
    with pytest.raises(AttributeError, match="no attribute 'downscale'"):
        _ = star_jax.downscale


def test_upscale_takes_one_path_and_the_settings_of_the_pipeline(
    tmp_path, monkeypatch, tiny_checkpoint, tiny_pipeline
):
    monkeypatch.setattr(
        star_jax.StarPipeline, "from_pretrained", staticmethod(lambda *_, **__: tiny_pipeline)
    )
    clip = write_video(tmp_path / "clip.mp4", moving_clip(6))
    summary = star_jax.upscale(
        clip,
        tmp_path / "out.mp4",
        checkpoint=tiny_checkpoint,
        compile_cache="",
        progress="none",
        num_inference_steps=1,
        guidance_scale=1.0,
        window=4,
    )
    (outcome,) = summary.of("done")
    assert outcome.output == tmp_path / "out.mp4" and outcome.settings.window == 4
    assert VideoReader(outcome.output).info.num_frames == 6
    with pytest.raises(InputError, match="choose a number of at least 1"):
        star_jax.upscale(clip, tmp_path / "other.mp4", scale=0.5)
