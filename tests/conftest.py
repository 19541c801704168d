"""Shared by all tests: eight CPU devices, a compilation cache, small data made on the spot."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# No test tells anything to a service.
os.environ.pop("WANDB_PROJECT", None)
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  (named below)

# Annotations are checked at run time in tests, and not in training.
install_import_hook(["ivx", "data_pipelines"], "tests.typecheck.check")

import pathlib
import signal

import jax
import numpy as np
import pytest
from absl import flags

from data_pipelines import layout, packing, sources
from data_pipelines.synthetic import presets, write
from data_pipelines.video import frames, resize
from ivx.kernels import vocabulary
from ivx.models.definition import ModelDefinition
from ivx.parallel import devices
from ivx.text import tokenizer
from tests.small import small_spec

devices.configure_devices(cpu_devices=0)
flags.FLAGS.mark_as_parsed()
# A script that runs pytest with `&` has it ignore Ctrl-C, and so would the commands under test.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory) -> pathlib.Path:
    """A handful of synthetic clips of every family."""
    folder = tmp_path_factory.mktemp("synthetic") / "data"
    write.synthesize(folder, presets.PRESETS["test"], seed=3, workers=2)
    return folder


@pytest.fixture(scope="session")
def rule() -> layout.LayoutRule:
    """How the tiny experiment lays samples out."""
    return layout.LayoutRule(
        tokenizer.load("compact"),
        frames.FrameRule(fps=1.0, min_frames=2, max_frames=16),
        resize.PixelBudget(4 * 32 * 32, 16 * 64 * 64),
        resize.PixelBudget(4 * 32 * 32, 12 * 32 * 32),
    )


@pytest.fixture(scope="session")
def shape() -> packing.PackShape:
    return packing.PackShape(tokens=512, patches=480, slice_block=48)


@pytest.fixture(scope="session")
def samples(data_folder) -> list[sources.Sample]:
    """The training conversations of the synthetic clips."""
    [member] = sources.read_mixture(data_folder / "data.json", ("synthetic_train",))
    return sources.read_samples(member)


@pytest.fixture(scope="session")
def layouts(samples, rule) -> list[layout.Layout]:
    return [rule.lay_out(sample) for sample in samples]


@pytest.fixture(scope="session", params=["m2la", "m2la_exact", "gqa"])
def definition(request) -> ModelDefinition:
    """A small model of each attention."""
    return ModelDefinition(small_spec(request.param))


@pytest.fixture(scope="session")
def params(definition):
    return definition.init(seed=0)


def pack(chosen: list[layout.Layout], room: packing.PackShape):
    """One pack of these samples as a batch of one."""
    pixels = [one.read_patches() for one in chosen]
    return jax.tree.map(lambda a: np.asarray(a)[None], packing.assemble(chosen, pixels, room))


@pytest.fixture
def bucket(data_folder):
    """gs://bucket with a clip; a test may add to it."""
    import fsspec

    from tests.bucket import Bucket

    known = fsspec.registry.get("gcs")
    fsspec.register_implementation("gcs", Bucket, clobber=True)
    files = Bucket()
    clip = next((data_folder / "clips" / "train").iterdir())
    files.pipe("/bucket/v/a.mp4", clip.read_bytes())
    yield files
    files.store.clear()
    if known:
        fsspec.register_implementation("gcs", known, clobber=True)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 16 tokens and 128 columns, so that small arrays have several of both."""
    monkeypatch.setattr(vocabulary, "ROWS", 16)
    monkeypatch.setattr(vocabulary, "COLUMNS", 128)
    monkeypatch.setattr(vocabulary, "FEWEST_ROWS", 8)
