"""ivx and `transformers` compute the same logits and answers from each other's folders.

Skipped without torch and transformers (4.57 or 5). The transformers side runs no code of ivx.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import pytest

from data_pipelines import layout
from data_pipelines.batch import Batch
from data_pipelines.sources import Sample
from ivx.evaluation.runner import as_prompt
from ivx.hf import config, processor, read, write
from ivx.models.definition import ModelDefinition, Params
from ivx.sampling import sampler
from ivx.text import compact_tokenizer, tokenizer
from tests.conftest import small_spec

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", exc_type=ImportError)

TOLERANCE = 1e-4
ANSWER = 12


@pytest.fixture(scope="module", autouse=True)
def offline(monkeypatch_module: pytest.MonkeyPatch) -> Iterator[None]:
    """No access to the hub, one thread."""
    monkeypatch_module.setenv("HF_HUB_OFFLINE", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def noisy(params: Params) -> Params:
    """Parameters with noise, so that biases and norms matter."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda a: (np.asarray(a) + 0.1 * rng.standard_normal(a.shape)).astype(np.float32), params
    )


@pytest.fixture(scope="module")
def exported(
    definition: ModelDefinition, noisy: Params, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("parity") / "model"
    rules = processor.FrameRules(1.0, 2, 16, 4096, 65536)
    write.export(
        folder, definition, noisy, compact_tokenizer.PATH, rules, {}, "float32", shard_bytes=2e5
    )
    return folder


@pytest.fixture(scope="module")
def loaded(exported: pathlib.Path, definition: ModelDefinition) -> tuple[Any, dict]:
    """The transformers model and its loading report."""
    load = {
        "m2la": transformers.AutoModelForCausalLM,
        "m2la_exact": transformers.AutoModelForCausalLM,
        "gqa": transformers.AutoModelForImageTextToText,
    }[definition.spec.text.attention].from_pretrained
    model, report = load(
        exported, dtype=torch.float32, output_loading_info=True, **trust(definition)
    )
    return model.eval(), report


@pytest.fixture(scope="module")
def prompts(samples: list[Sample], rule: layout.LayoutRule) -> list[layout.Layout]:
    """Two questions of different lengths, about videos of several slices."""
    layouts = (rule.lay_out(as_prompt(sample), generate=True) for sample in samples)
    long = [layout for layout in layouts if len(layout.slice_sizes) > 2]
    return [long[0], next(other for other in long if len(other.tokens) != len(long[0].tokens))]


@pytest.fixture(scope="module")
def prompt(prompts: list[layout.Layout]) -> layout.Layout:
    return prompts[0]


def trust(definition: ModelDefinition) -> dict:
    """Trusts the code of the folder only for the attention that transformers lacks."""
    return {"trust_remote_code": True} if definition.spec.text.attention != "gqa" else {}


def their_inputs(prompt: layout.Layout, tokens: Sequence[int] | None = None) -> dict:
    """The prompt as the processor returns it; the model computes the positions."""
    tokens = prompt.tokens if tokens is None else tokens
    rows, _ = prompt.read_patches()
    pixels = np.concatenate(rows).astype(np.float32) / 127.5 - 1
    grid = [(len(clip.times), *clip.patch_shape) for clip in prompt.clips]
    ids = torch.tensor(np.asarray(tokens)[None].astype(np.int64))
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": torch.tensor(pixels),
        "video_grid_thw": torch.tensor(grid),
    }
    if int(transformers.__version__.split(".")[0]) > 4:
        pad = tokenizer.load("compact").video_pad
        inputs["mm_token_type_ids"] = torch.where(ids == pad, 2, 0)
    return inputs


def their_logits(
    model: Any, prompt: layout.Layout, tokens: Sequence[int] | None = None
) -> np.ndarray:
    with torch.no_grad():
        return model(**their_inputs(prompt, tokens)).logits[0].float().numpy()


def our_logits(definition: ModelDefinition, params: Params, prompt: layout.Layout) -> np.ndarray:
    batch = sampler.batch_prompts([prompt], [prompt.read_patches()]).batch

    @jax.jit
    def logits(params: Params, batch: Batch) -> jax.Array:
        model = definition.bind(params)
        return model.logits(model(batch).hidden)

    return np.asarray(logits(params, batch))[0, : len(prompt.tokens)]


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    difference = np.abs(ours - theirs).max()
    print(f"logits up to {np.abs(theirs).max():.2f} differ by {difference:.2e}")
    assert difference < TOLERANCE
    assert np.abs(theirs).max() > 0.5, "logits near zero agree trivially"


def test_every_tensor_is_loaded(loaded: tuple[Any, dict]):
    _, report = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[kind], (kind, report[kind])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_on_a_video_prompt_agree(
    loaded: tuple[Any, dict],
    definition: ModelDefinition,
    noisy: Params,
    prompt: layout.Layout,
    attention: str,
):
    model, _ = loaded
    model.set_attn_implementation(attention)
    assert model.config.text_config._attn_implementation == attention
    assert_close(our_logits(definition, noisy, prompt), their_logits(model, prompt))


def test_greedy_answers_of_cache_recomputation_and_sampler_agree(
    loaded: tuple[Any, dict], definition: ModelDefinition, noisy: Params, prompt: layout.Layout
):
    """transformers with its cache = transformers with full forward passes = the ivx sampler."""
    model, _ = loaded
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        out = model.generate(**their_inputs(prompt), max_new_tokens=ANSWER, do_sample=False)
    length, ends = len(prompt.tokens), model.generation_config.eos_token_id
    generated = out[0, length:].tolist()
    tokens = prompt.tokens.tolist()
    for token in generated:
        assert int(their_logits(model, prompt, tokens)[-1].argmax()) == token
        tokens.append(token)
    assert len(generated) == ANSWER or generated[-1] in ends

    sampled = sampler.Sampler(definition, noisy, tokenizer.load("compact").end_of_turn)
    [answer] = sampled.generate([prompt], [prompt.read_patches()], ANSWER)
    assert answer == [token for token in generated if token not in ends]


def test_decoding_step_equals_a_full_pass(
    loaded: tuple[Any, dict], definition: ModelDefinition, prompt: layout.Layout
):
    """The cache of M2LA holds only the latent and the rope key: R + P values per token."""
    model, _ = loaded
    text, length = definition.spec.text, len(prompt.tokens)
    tokens = [*prompt.tokens.tolist(), 100]
    with torch.no_grad():
        cache = model(**their_inputs(prompt), use_cache=True).past_key_values
        stored = cache.layers[0].keys.shape, cache.layers[0].values.shape
        step = model(
            input_ids=torch.tensor([tokens[-1:]]),
            attention_mask=torch.ones(1, length + 1, dtype=torch.int64),
            position_ids=torch.full((3, 1, 1), int(prompt.positions.max()) + 1),
            past_key_values=cache,
        ).logits[0, -1]
    if text.attention != "gqa":
        assert stored == ((1, 1, length, text.kv_rank), (1, 1, length, text.head_dim))
    else:
        assert stored == ((1, text.kv_heads, length, text.head_dim),) * 2
    assert_close(step.numpy(), their_logits(model, prompt, tokens)[-1])


def test_left_padded_batch_gives_the_answers_of_single_prompts(
    loaded: tuple[Any, dict], prompts: list[layout.Layout]
):
    """Two prompts of different lengths in one batch; the mask reaches absorbed decoding."""
    model, _ = loaded
    model.set_attn_implementation("sdpa")
    single = [their_inputs(prompt) for prompt in prompts]
    lengths = [len(prompt.tokens) for prompt in prompts]
    assert lengths[0] != lengths[1]

    def batched(name: str) -> Any:
        if name in ("pixel_values_videos", "video_grid_thw"):
            return torch.cat([inputs[name] for inputs in single])
        rows = [
            torch.nn.functional.pad(inputs[name], (max(lengths) - length, 0), value=0)
            for inputs, length in zip(single, lengths, strict=True)
        ]
        return torch.cat(rows)

    def answers(inputs: dict) -> list[list[int]]:
        with torch.no_grad():
            out = model.generate(**inputs, min_new_tokens=4, max_new_tokens=4, do_sample=False)
        return out[:, -4:].tolist()

    expected = [answers(inputs)[0] for inputs in single]
    assert answers({name: batched(name) for name in single[0]}) == expected
    assert expected[0] != expected[1]


def test_tokenizers_agree(exported: pathlib.Path, definition: ModelDefinition):
    theirs = transformers.AutoTokenizer.from_pretrained(exported, **trust(definition))
    ours = tokenizer.load("compact")
    for text in (
        "Hello, 2026! naïve 视频",
        "<|im_start|>user\n<12.5 seconds><|vision_start|><|video_pad|><|vision_end|>Who?<|im_end|>",
        "<think>\n\n</think>\n\nA cat.",
        "  two  spaces\n\n\ttab",
    ):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == ours.encode(text)
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids)
    prompt = theirs.apply_chat_template(
        [{"role": "user", "content": "Who?"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    assert theirs.eos_token_id == ours.end_of_turn


def test_tied_model_shares_one_table(
    definition: ModelDefinition, prompt: layout.Layout, tmp_path: pathlib.Path
):
    text = dataclasses.replace(definition.spec.text, tied=True)
    tied = ModelDefinition(dataclasses.replace(definition.spec, text=text))
    rng = np.random.default_rng(2)
    params = jax.tree.map(
        lambda a: 0.15 * rng.standard_normal(a.shape, np.float32), tied.abstract_params
    )
    rules = processor.FrameRules(1.0, 2, 16, 4096, 65536)
    write.export(tmp_path / "x", tied, params, compact_tokenizer.PATH, rules, {}, "float32")
    model, report = transformers.AutoModelForImageTextToText.from_pretrained(
        tmp_path / "x", dtype=torch.float32, output_loading_info=True, **trust(definition)
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert_close(our_logits(tied, params, prompt), their_logits(model.eval(), prompt))


@pytest.mark.parametrize("definition", ["m2la"], indirect=True)
def test_layers_keep_their_ranks_without_padding(
    definition: ModelDefinition, noisy: Params, prompt: layout.Layout, tmp_path: pathlib.Path
):
    """`kv_lora_rank_list`: neither the folder nor the cache contains the padding."""
    narrow, ranks = jax.tree.map(np.copy, noisy), (24, 7, 16)
    attention = narrow["language_model"]["layers"]["self_attn"]
    for layer, rank in enumerate(ranks):
        padding = slice(rank, definition.spec.text.kv_rank)
        attention["kv_a_proj"]["kernel"][layer, :, padding] = 0
        attention["kv_a_proj"]["bias"][layer, padding] = 0
        attention["kv_b_proj"]["kernel"][layer, padding] = 0
    rules, folder = processor.FrameRules(1.0, 2, 16, 4096, 65536), tmp_path / "model"
    write.export(folder, definition, narrow, compact_tokenizer.PATH, rules, {}, "float32")
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=True
    )
    assert not any(report[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched"))
    assert_close(our_logits(definition, narrow, prompt), their_logits(model.eval(), prompt))
    with torch.no_grad():
        cache = model(**their_inputs(prompt), use_cache=True).past_key_values
    assert [layer.keys.shape[-1] for layer in cache.layers] == list(ranks)


@pytest.mark.parametrize("definition", ["gqa"], indirect=True)
def test_folder_of_transformers_is_read(
    definition: ModelDefinition,
    exported: pathlib.Path,
    prompt: layout.Layout,
    tmp_path: pathlib.Path,
):
    """A model saved by transformers, with its config format and its shards."""
    settings = transformers.AutoConfig.from_pretrained(exported)
    torch.manual_seed(0)
    model = transformers.Qwen3VLForConditionalGeneration(settings).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path, max_shard_size="300KB")
    spec = config.read_spec(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert spec.text == dataclasses.replace(small_spec("gqa").text, kv_rank=0)
    loaded = ModelDefinition(spec)
    ours = our_logits(loaded, read.read_params(tmp_path, loaded), prompt)
    assert_close(ours, their_logits(model, prompt))
