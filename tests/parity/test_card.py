"""The program in a model card runs as printed, in an environment without ivx and JAX.

torchcodec reads the video if it can be loaded. Otherwise a stand-in with the four names that
transformers uses takes its place, and decodes with PyAV; everything else is the real thing.
"""

import pathlib
import re
import shutil
import subprocess
import textwrap

import pytest

import ivx
from ivx import bundled, config, from_config
from ivx import workdir as workdirs
from ivx.models import spec
from ivx.models.definition import ModelDefinition
from ivx.training.checkpoints import checkpoint
from tests.command import ROOT
from tests.parity import environments

pytest.importorskip("torch")
pytest.importorskip("transformers", exc_type=ImportError)
pytest.importorskip("packaging.requirements")

CLIP = ROOT / "assets" / "clip.mp4"
# torchvision from PyPI cannot be imported beside a torch without CUDA unless these are declared.
SHIM = """
import torch
try:
    import torchvision
except RuntimeError:
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
STAND_IN = """
import types
import av, numpy as np, torch

class VideoDecoder:
    def __init__(self, path, **options):
        with av.open(path) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate)
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        self.frames = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
        count, _, height, width = self.frames.shape
        self.metadata = types.SimpleNamespace(
            num_frames=count, average_fps=rate, duration_seconds=count / rate,
            height=height, width=width,
        )

    def get_frames_at(self, indices):
        return types.SimpleNamespace(data=self.frames[torch.as_tensor(np.asarray(indices))])
"""


def run(*command: str | pathlib.Path, cwd: pathlib.Path) -> subprocess.CompletedProcess:
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "hub"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The interpreter of an environment with what the card lists."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    names = "torch", "transformers", "torchvision", "pillow", "torchcodec"
    interpreter = environments.make(folder, *names)
    packages = environments.site(folder)
    (packages / "sitecustomize.py").write_text(SHIM)
    decoder = (
        "from torchcodec.decoders import VideoDecoder; VideoDecoder(__import__('sys').argv[1])"
    )
    if run(interpreter, "-I", "-c", decoder, CLIP, cwd=folder).returncode:
        for path in packages.glob("torchcodec*"):
            path.unlink()
        environments.add(folder, "av")
        decoders = packages / "torchcodec" / "decoders.py"
        decoders.parent.mkdir()
        (decoders.parent / "__init__.py").write_text("ffmpeg_major_version = 8\n")
        decoders.write_text(STAND_IN)
        information = packages / "torchcodec-0.17.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Name: torchcodec\nVersion: 0.17.0\n")
    return interpreter


def random_run(folder: pathlib.Path) -> pathlib.Path:
    """A workdir of the tiny preset with latent attention and random parameters."""
    experiment = config.tiny()
    experiment.model.attention = "m2la"
    params = ModelDefinition(spec.tiny("m2la")).init(0)
    workdirs.claim(folder, experiment)
    checkpoint.save_params(folder, params, config.snapshot(experiment))
    return folder


@pytest.mark.parametrize("attention", ["gqa", "m2la"])
def test_program_of_the_card_runs_as_printed(
    attention: str, python: pathlib.Path, tmp_path: pathlib.Path
):
    model = bundled.find("tiny-base") if attention == "gqa" else random_run(tmp_path / "run")
    stored = from_config.stored_model.open_model(model)
    from_config.export.export_model(stored, tmp_path / "exported", "float32", 5.0)
    shutil.copyfile(CLIP, tmp_path / "clip.mp4")
    card = (tmp_path / "exported" / "README.md").read_text()
    [program] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    guard = """
        import importlib.util
        assert not any(map(importlib.util.find_spec, ("ivx", "jax", "flax")))
    """
    (tmp_path / "ask.py").write_text(textwrap.dedent(guard) + program)

    process = run(python, "-I", "ask.py", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "cap_pixels_per_frame" not in process.stderr
    answer = process.stdout.removesuffix("\n")
    assert answer
    if attention == "gqa":  # the answer of a trained model does not hang on the last digit
        assert answer == ivx.generate(ivx.load(str(model)), str(CLIP), "What happens?", 64)
