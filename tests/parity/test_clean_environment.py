"""A run's export gives the answers of ivx in an environment without ivx.

The new environment contains only links to torch, transformers and their requirements. The test
verifies that neither ivx nor JAX can be imported there.
"""

import json
import pathlib
import subprocess

import jax
import numpy as np
import pytest

import ivx
from data_pipelines.sources import Sample, VideoRef
from ivx import config, from_config
from ivx import workdir as workdirs
from ivx.models import spec
from ivx.models.definition import ModelDefinition
from ivx.training.checkpoints import checkpoint
from tests.parity import environments

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", exc_type=ImportError)
pytest.importorskip("packaging.requirements")

QUESTION = "What happens?"
ANSWER = 12

# A user program; it reports forbidden packages. Pixels are an input, as torchvision is missing.
PROGRAM = """
import importlib.util, json, sys
import numpy as np, torch, transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

folder, path, attention = sys.argv[1:]
remote = {"trust_remote_code": True} if attention != "gqa" else {}
model_class = AutoModelForCausalLM if remote else AutoModelForImageTextToText
model, report = model_class.from_pretrained(
    folder, dtype=torch.float32, output_loading_info=True, **remote
)
tokenizer = AutoTokenizer.from_pretrained(folder, **remote)
inputs = {name: torch.tensor(array) for name, array in np.load(path).items()}
length = inputs["input_ids"].shape[1]
inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.video_token_id) * 2
if transformers.__version__.startswith("4."):
    del inputs["mm_token_type_ids"]
output = model.generate(**inputs, max_new_tokens=ANSWER)[0, length:]
messages = [{"role": "user", "content": "QUESTION"}]
print(json.dumps({
    "forbidden": [name for name in ("ivx", "jax", "flax") if importlib.util.find_spec(name)],
    "mismatched": [name for name, keys in report.items() if name.endswith("keys") and keys],
    "prompt": tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True),
    "answer": tokenizer.decode(output, skip_special_tokens=True),
}))
""".replace("ANSWER", str(ANSWER)).replace("QUESTION", QUESTION)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The interpreter of the clean environment."""
    return environments.make(tmp_path_factory.mktemp("clean") / "venv", "torch", "transformers")


@pytest.fixture(params=["m2la", "m2la_exact", "gqa"])
def run(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> pathlib.Path:
    """A workdir of the tiny preset with random parameters."""
    experiment = config.tiny()
    experiment.model.attention = request.param
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda a: (np.asarray(a) + 0.1 * rng.standard_normal(a.shape)).astype(np.float32),
        ModelDefinition(spec.tiny(request.param)).init(0),
    )
    workdirs.claim(tmp_path / "run", experiment)
    checkpoint.save_params(tmp_path / "run", params, config.snapshot(experiment))
    return tmp_path / "run"


def test_export_gives_the_answer_of_the_run(
    run: pathlib.Path, python: pathlib.Path, samples: list[Sample], tmp_path: pathlib.Path
):
    model, video = from_config.stored_model.open_model(run), samples[0].videos[0].path
    from_config.export.export_model(model, tmp_path / "model", "float32", 5.0)

    user = {"role": "user", "content": f"<VIDEO_CONTEXT>{QUESTION}"}
    sample = Sample("question", (user,), (VideoRef(video, None),))
    layout = from_config.data.layout_rule(model.config).lay_out(sample, generate=True)
    pixels = np.concatenate(layout.read_patches()[0]).astype(np.float32) / 127.5 - 1
    np.savez(
        tmp_path / "inputs.npz",
        input_ids=layout.tokens[None].astype(np.int64),
        attention_mask=np.ones((1, len(layout.tokens)), np.int64),
        pixel_values_videos=pixels,
        video_grid_thw=np.array([(len(clip.times), *clip.patch_shape) for clip in layout.clips]),
    )
    process = subprocess.run(
        [python, "-I", "-c", PROGRAM, "model", "inputs.npz", model.config.model.attention],
        cwd=tmp_path,
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["forbidden"] == [] and result["mismatched"] == []
    assert result["prompt"] == f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    expected = ivx.generate(ivx.load(str(run)), video, QUESTION, ANSWER)
    assert result["answer"] == expected and expected
