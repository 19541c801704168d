"""A run's export answers in an environment of torch and transformers alone as ivx answers.

The environment is a new one in which nothing is installed but links to these two packages and to
what they require: neither ivx nor JAX can be imported there, and the test sees to it.
"""

import importlib.metadata
import json
import pathlib
import subprocess
import venv

import jax
import numpy as np
import pytest

import ivx
from data_pipelines.sources import Sample, VideoRef
from ivx import build, config
from ivx.build import stored
from ivx.commands import export_hf
from ivx.models import spec
from ivx.models.definition import ModelDefinition
from ivx.training import checkpoint

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", exc_type=ImportError)
requirements = pytest.importorskip("packaging.requirements")

QUESTION = "What happens?"
ANSWER = 12

# What a user writes, and what it must not find. Pixels come from outside: torchvision is not there.
PROGRAM = """
import importlib.util, json, sys
import numpy as np, torch, transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

folder, inputs, attention = sys.argv[1:]
remote = {"trust_remote_code": True} if attention != "gqa" else {}
kind = AutoModelForCausalLM if remote else AutoModelForImageTextToText
model, report = kind.from_pretrained(
    folder, dtype=torch.float32, output_loading_info=True, **remote
)
words = AutoTokenizer.from_pretrained(folder, **remote)
given = {name: torch.tensor(array) for name, array in np.load(inputs).items()}
length = given["input_ids"].shape[1]
given["mm_token_type_ids"] = (given["input_ids"] == model.config.video_token_id) * 2
if transformers.__version__.startswith("4."):
    del given["mm_token_type_ids"]
written = model.generate(**given, max_new_tokens=ANSWER)[0, length:]
asked = [{"role": "user", "content": "QUESTION"}]
print(json.dumps({
    "strangers": [name for name in ("ivx", "jax", "flax") if importlib.util.find_spec(name)],
    "amiss": [name for name, keys in report.items() if name.endswith("keys") and keys],
    "prompt": words.apply_chat_template(asked, tokenize=False, add_generation_prompt=True),
    "answer": words.decode(written, skip_special_tokens=True),
}))
""".replace("ANSWER", str(ANSWER)).replace("QUESTION", QUESTION)


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> pathlib.Path:
    """The interpreter of the clean environment."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, symlinks=True)
    [site] = folder.glob("lib/python*/site-packages")
    for name in required("torch", "transformers"):
        distribution = importlib.metadata.distribution(name)
        for part in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (site / part).exists():
                (site / part).symlink_to(distribution.locate_file(part))
    return folder / "bin" / "python"


def required(*names: str) -> set[str]:
    """Distributions that these need, themselves among them."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of a marker that does not apply here
        if name not in found:
            found.add(name)
            parsed = [requirements.Requirement(need) for need in needs]
            waiting += [
                one.name for one in parsed if not one.marker or one.marker.evaluate({"extra": ""})
            ]
    return found


@pytest.fixture(params=["m2la", "m2la_exact", "gqa"])
def run(request, tmp_path) -> pathlib.Path:
    """A workdir of the tiny preset whose parameters are noise."""
    mine = config.tiny()
    mine.model.attention = request.param
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda a: (np.asarray(a) + 0.1 * rng.standard_normal(a.shape)).astype(np.float32),
        ModelDefinition(spec.tiny(request.param)).init(0),
    )
    config.claim_workdir(tmp_path / "run", mine)
    checkpoint.save_params(tmp_path / "run", params, config.snapshot(mine))
    return tmp_path / "run"


def test_the_export_of_a_run_answers_as_the_run_does(run, python, samples, tmp_path):
    model, video = stored.open_model(run), samples[0].videos[0].path
    export_hf.export_model(model, tmp_path / "model", "float32", 5.0)

    user = {"role": "user", "content": f"<VIDEO_CONTEXT>{QUESTION}"}
    sample = Sample("asked", (user,), (VideoRef(video, None),))
    layout = build.layout_rule(model.config)(sample, generate=True)
    pixels = np.concatenate(layout.read_patches()[0]).astype(np.float32) / 127.5 - 1
    np.savez(
        tmp_path / "inputs.npz",
        input_ids=layout.tokens[None].astype(np.int64),
        attention_mask=np.ones((1, len(layout.tokens)), np.int64),
        pixel_values_videos=pixels,
        video_grid_thw=np.array([(len(clip.times), *clip.patch_shape) for clip in layout.clips]),
    )
    ran = subprocess.run(
        [python, "-I", "-c", PROGRAM, "model", "inputs.npz", model.config.model.attention],
        cwd=tmp_path,
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout.splitlines()[-1])
    assert said["strangers"] == [] and said["amiss"] == []
    assert said["prompt"] == f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    ours = ivx.generate(ivx.load(str(run)), video, QUESTION, ANSWER)
    assert said["answer"] == ours and ours
