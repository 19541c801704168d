"""A random Qwen3-VL of transformers, loaded by ivx: every mixture of images and videos.

Skipped without torch and transformers.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import pytest

from data_pipelines.batch import Batch
from data_pipelines.layout import Layout
from data_pipelines.video import patches
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.resize import PixelBudget
from ivx.evaluation import activations, peer_activations
from ivx.evaluation.agreement import LOGITS
from ivx.hf import config, peer, read
from ivx.models.definition import ModelDefinition, Params
from ivx.sampling import sampler
from ivx.text import tokenizer
from tests.conftest import small_spec
from tests.parity.images import IMAGE, VIDEO, Case

torch = pytest.importorskip("torch")
peer.declare_torchvision_operators()
transformers = pytest.importorskip("transformers", exc_type=ImportError)

# The largest measured difference is 7e-6.
TOLERANCE = 5e-5
ANSWER = 64
Model = tuple[ModelDefinition, Params]
Prompts = tuple[list[Layout], list[tuple]]
_CLIP, _TALL = VideoInfo(6, 1.0, 160, 96), VideoInfo(3, 2.0, 32, 224)


def _case(
    text: str, images: Sequence[tuple[int, int]] = (), clips: Sequence[VideoInfo] = ()
) -> Case:
    """Multiples of 32 keep their size: an image of 96 x 160 has 3 x 5 tokens."""
    return Case((text,), tuple(images), tuple(clips), PixelBudget(1, 2**18))


CASES = {
    "text": _case("Name the days of the week, then count from 1 to 10."),
    "image": _case(f"{IMAGE}What is shown?", [(160, 96)]),
    "images": _case(f"{IMAGE}{IMAGE} and {IMAGE}?", [(64, 64), (96, 160), (128, 32)]),
    "video": _case(f"{VIDEO}What happens?", (), [_CLIP]),
    "videos": _case(f"{VIDEO}{VIDEO}Which is longer?", (), [_CLIP, _TALL]),
    "image, video": _case(f"{IMAGE}Is it in {VIDEO}?", [(96, 64)], [_CLIP]),
    "video, image": _case(f"{VIDEO}{IMAGE}Is it in there?", [(96, 64)], [_CLIP]),
    "all": Case(
        (f"{IMAGE}{VIDEO}{IMAGE}Who?", f"{VIDEO} or {IMAGE}?"),
        ((32, 96), (96, 96), (224, 32)),
        (_TALL, _CLIP),
        PixelBudget(1, 2**18),
    ),
    "one cell": _case(f"{IMAGE}?", [(32, 32)]),
    "two cells": _case(f"{IMAGE}{IMAGE}?", [(32, 64), (64, 32)]),
    "wide": _case(f"{IMAGE}?", [(1600, 32)]),
    "high": _case(f"{IMAGE}?", [(32, 1600)]),
    "odd": _case(f"{IMAGE}{IMAGE}?", [(224, 160), (352, 96)]),
}


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    """No access to the hub, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The transformers model, with noise so that biases, norms and every tap matter."""
    settings = config.write_config(small_spec("gqa"), tokenizer.load("compact"), "float32")
    torch.manual_seed(0)
    model = transformers.Qwen3VLForConditionalGeneration(transformers.Qwen3VLConfig(**settings))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def ours(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same model in ivx: definition and parameters."""
    folder = tmp_path_factory.mktemp("images")
    theirs.save_pretrained(folder)
    definition = ModelDefinition(config.read_spec(folder))
    return definition, read.read_params(folder, definition)


@pytest.fixture(scope="module")
def prompts() -> tuple[list[Layout], list[tuple]]:
    """Layouts of the cases, with random pixels."""
    layouts, pixels = [case.layout() for case in CASES.values()], []
    rng = np.random.default_rng(0)
    for layout in layouts:
        rows = [rng.integers(0, 256, (size, patches.ROW), np.uint8) for size in layout.slice_sizes]
        shapes = [clip.patch_shape for clip in layout.clips for _ in clip.times]
        pixels.append((rows, [patches.patch_grid(*shape) for shape in shapes]))
    return layouts, pixels


def their_inputs(layouts: Sequence[Layout], pixels: Sequence[tuple], side: str = "right") -> dict:
    """Prompts as the transformers processor returns them, padded on one side."""
    words, longest = tokenizer.load("compact"), max(len(layout.tokens) for layout in layouts)
    ids = np.zeros((len(layouts), longest), np.int64)
    mask = np.zeros_like(ids)
    kinds = {"pixel_values": [], "pixel_values_videos": []}
    grids = {"image_grid_thw": [], "video_grid_thw": []}
    for index, (layout, (rows, _)) in enumerate(zip(layouts, pixels, strict=True)):
        length = len(layout.tokens)
        span = slice(0, length) if side == "right" else slice(longest - length, longest)
        ids[index, span], mask[index, span] = layout.tokens, 1
        rows = iter(rows)
        for clip in layout.clips:
            slices = [next(rows) for _ in clip.times]
            kinds["pixel_values" if clip.still else "pixel_values_videos"] += slices
            grid = (len(clip.times), *clip.patch_shape)
            grids["image_grid_thw" if clip.still else "video_grid_thw"].append(grid)
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    for name, rows in kinds.items():
        if rows:
            inputs[name] = torch.tensor(np.concatenate(rows).astype(np.float32) / 127.5 - 1)
    inputs |= {name: torch.tensor(rows) for name, rows in grids.items() if rows}
    if int(transformers.__version__.split(".")[0]) > 4:
        kind = (ids == words.image_pad) + 2 * (ids == words.video_pad)
        inputs["mm_token_type_ids"] = torch.tensor(kind)
    return inputs


def our_logits(ours: Model, layouts: Sequence[Layout], pixels: Sequence[tuple]) -> list[np.ndarray]:
    """Logits of all prompts in one batch, without padding."""
    definition, params = ours
    batch = sampler.batch_prompts(layouts, pixels).batch

    @jax.jit
    def run(params: Params, batch: Batch) -> jax.Array:
        model = definition.bind(params)
        return model.logits(model(batch).hidden)

    logits = np.asarray(run(params, batch))
    return [row[: len(layout.tokens)] for row, layout in zip(logits, layouts, strict=True)]


def their_answers(model: Any, inputs: dict) -> list[list[int]]:
    """Greedy answers without the end token."""
    end = tokenizer.load("compact").end_of_turn
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, max_new_tokens=ANSWER, eos_token_id=end, pad_token_id=end
    )
    with torch.no_grad():
        output = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :].tolist()
    return [[token for token in row if token != end] for row in output]


@pytest.fixture(scope="module")
def answers(ours: Model, prompts: Prompts) -> list[list[int]]:
    """Answers of the ivx sampler to all prompts in one batch."""
    end = tokenizer.load("compact").end_of_turn
    return sampler.Sampler(*ours, end).generate(*prompts, ANSWER)


def assert_close(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    difference = np.abs(ours - theirs).max()
    print(f"{name}: up to {np.abs(theirs).max():.2f}, differ by {difference:.2e}")
    assert difference <= TOLERANCE, name
    assert np.abs(theirs).max() > 0.2, "values near zero agree trivially"


@pytest.mark.parametrize("name", CASES)
def test_logits_agree(theirs: Any, ours: Model, prompts: Prompts, name: str):
    index = list(CASES).index(name)
    layouts, pixels = ([part[index]] for part in prompts)
    with torch.no_grad():
        expected = theirs(**their_inputs(layouts, pixels)).logits[0].numpy()
    [logits] = our_logits(ours, layouts, pixels)
    assert_close(name, logits, expected)


@pytest.mark.parametrize("side", ["right", "left"])
def test_logits_of_a_padded_batch_agree(theirs: Any, ours: Model, prompts: Prompts, side: str):
    """Text, images, videos and both in one batch."""
    layouts, pixels = prompts
    inputs = their_inputs(layouts, pixels, side)
    with torch.no_grad():
        expected = theirs(**inputs).logits.numpy()
    mask = inputs["attention_mask"].numpy().astype(bool)
    assert not mask.all()
    logits = our_logits(ours, layouts, pixels)
    for index, name in enumerate(CASES):
        assert_close(name, logits[index], expected[index, mask[index]])


def test_taps_merger_layers_and_logits_agree(theirs: Any, ours: Model, prompts: Prompts):
    """Every part that `ivx verify` compares, in the order of the tokens."""
    definition, params = ours
    words, taps = tokenizer.load("compact"), len(definition.spec.vision.taps)
    observed = activations.ActivationRecorder(definition, words)(params, *prompts, limit=1)
    expected = peer_activations.record(theirs, words, *prompts, limit=1)
    for name, our, their in zip(CASES, observed, expected, strict=True):
        visual = [part for part in their.parts if part.startswith("visual.")]
        assert len(visual) == (0 if name == "text" else taps + 1)
        assert our.parts.keys() == their.parts.keys() and LOGITS in our.parts
        for part, array in their.parts.items():
            assert_close(f"{name}: {part}", our.parts[part], array)


def test_64_greedy_tokens_agree(theirs: Any, prompts: Prompts, answers: list[list[int]]):
    lengths = []
    for name, layout, rows, answer in zip(CASES, *prompts, answers, strict=True):
        [expected] = their_answers(theirs, their_inputs([layout], [rows]))
        assert answer == expected, name
        lengths.append(len(answer))
        print(f"{name}: {lengths[-1]} tokens, {len(set(answer))} distinct")
    assert sum(length == ANSWER for length in lengths) >= len(CASES) - 2
    assert len(set(map(tuple, answers))) == len(CASES)


def test_64_greedy_tokens_of_a_padded_batch_agree(
    theirs: Any, prompts: Prompts, answers: list[list[int]]
):
    assert answers == their_answers(theirs, their_inputs(*prompts, side="left"))
