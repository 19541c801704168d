"""Exported folders in plain `transformers`, and its folders in ours: the same logits and answers.

Runs where torch and transformers (4.57 or 5) are installed, and is skipped elsewhere. None of the
code of ivx is used on their side.
"""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from data_pipelines import layout
from ivx.evaluation.runner import as_prompt
from ivx.hf import config, processor, read, write
from ivx.models.definition import ModelDefinition
from ivx.sampling import sampler
from ivx.text import compact_tokenizer, tokenizer
from tests.conftest import small_spec

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", exc_type=ImportError)

TOLERANCE = 1e-4
ANSWER = 12


@pytest.fixture(scope="module", autouse=True)
def quiet(monkeypatch_module):
    """No look at the hub, no more threads than needed."""
    monkeypatch_module.setenv("HF_HUB_OFFLINE", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def noisy(params):
    """Parameters whose biases and norms matter."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda a: (np.asarray(a) + 0.1 * rng.standard_normal(a.shape)).astype(np.float32), params
    )


@pytest.fixture(scope="module")
def exported(definition, noisy, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("parity") / "model"
    rules = processor.FrameRules(1.0, 2, 16, 4096, 65536)
    write.export(
        folder, definition, noisy, compact_tokenizer.PATH, rules, {}, "float32", shard_bytes=2e5
    )
    return folder


@pytest.fixture(scope="module")
def loaded(exported, definition):
    """Their model, and what they say of its loading."""
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
def prompts(samples, rule) -> list[layout.Layout]:
    """Two questions of unequal length, about videos of several slices."""
    laid_out = (rule(as_prompt(sample), generate=True) for sample in samples)
    several = [found for found in laid_out if len(found.slice_sizes) > 2]
    return [several[0], next(one for one in several if len(one.tokens) != len(several[0].tokens))]


@pytest.fixture(scope="module")
def prompt(prompts) -> layout.Layout:
    return prompts[0]


def trust(definition) -> dict:
    """Code of the folder is run for the attention that transformers lacks, and for nothing else."""
    return {"trust_remote_code": True} if definition.spec.text.attention != "gqa" else {}


def their_inputs(prompt: layout.Layout, tokens=None) -> dict:
    """The prompt as their processor would give it: positions are left to their model."""
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


def their_logits(model, prompt: layout.Layout, tokens=None) -> np.ndarray:
    with torch.no_grad():
        return model(**their_inputs(prompt, tokens)).logits[0].float().numpy()


def our_logits(definition, params, prompt: layout.Layout) -> np.ndarray:
    batch = sampler.batch_prompts([prompt], [prompt.read_patches()]).batch

    @jax.jit
    def logits(params, batch):
        model = definition.bind(params)
        return model.logits(model(batch).hidden)

    return np.asarray(logits(params, batch))[0, : len(prompt.tokens)]


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    difference = np.abs(ours - theirs).max()
    print(f"logits up to {np.abs(theirs).max():.2f} differ by {difference:.2e}")
    assert difference < TOLERANCE
    assert np.abs(theirs).max() > 0.5, "logits that say nothing agree too easily"


def test_every_tensor_finds_its_place(loaded):
    _, report = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[kind], (kind, report[kind])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_on_a_video_prompt_agree(loaded, definition, noisy, prompt, attention):
    model, _ = loaded
    model.set_attn_implementation(attention)
    assert model.config.text_config._attn_implementation == attention
    close(our_logits(definition, noisy, prompt), their_logits(model, prompt))


def test_their_greedy_answer_is_that_of_recomputation_and_ours(loaded, definition, noisy, prompt):
    """Token by token through their cache = whole forward passes of theirs = our sampler."""
    model, _ = loaded
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        out = model.generate(**their_inputs(prompt), max_new_tokens=ANSWER, do_sample=False)
    length, ends = len(prompt.tokens), model.generation_config.eos_token_id
    written = out[0, length:].tolist()
    again = prompt.tokens.tolist()
    for token in written:
        assert int(their_logits(model, prompt, again)[-1].argmax()) == token
        again.append(token)
    assert len(written) == ANSWER or written[-1] in ends

    sampled = sampler.Sampler(definition, noisy, tokenizer.load("compact").end_of_turn)
    [answer] = sampled.generate([prompt], [prompt.read_patches()], ANSWER)
    assert answer == [token for token in written if token not in ends]


def test_a_step_from_their_cache_equals_a_whole_pass(loaded, definition, prompt):
    """Of M2LA the cache holds the latent and the rope key alone: R + P numbers a token."""
    model, _ = loaded
    text, length = definition.spec.text, len(prompt.tokens)
    again = [*prompt.tokens.tolist(), 100]
    with torch.no_grad():
        cache = model(**their_inputs(prompt), use_cache=True).past_key_values
        stored = cache.layers[0].keys.shape, cache.layers[0].values.shape
        step = model(
            input_ids=torch.tensor([again[-1:]]),
            attention_mask=torch.ones(1, length + 1, dtype=torch.int64),
            position_ids=torch.full((3, 1, 1), int(prompt.positions.max()) + 1),
            past_key_values=cache,
        ).logits[0, -1]
    if text.attention != "gqa":
        assert stored == ((1, 1, length, text.kv_rank), (1, 1, length, text.head_dim))
    else:
        assert stored == ((1, text.kv_heads, length, text.head_dim),) * 2
    close(step.numpy(), their_logits(model, prompt, again)[-1])


def test_rows_padded_on_the_left_answer_as_alone(loaded, prompts):
    """Two prompts of unequal length in one batch; the mask reaches the step that answers from the
    latent."""
    model, _ = loaded
    model.set_attn_implementation("sdpa")
    alone = [their_inputs(prompt) for prompt in prompts]
    lengths = [len(prompt.tokens) for prompt in prompts]
    assert lengths[0] != lengths[1]

    def together(name: str):
        if name in ("pixel_values_videos", "video_grid_thw"):
            return torch.cat([inputs[name] for inputs in alone])
        rows = [
            torch.nn.functional.pad(inputs[name], (max(lengths) - length, 0), value=0)
            for inputs, length in zip(alone, lengths, strict=True)
        ]
        return torch.cat(rows)

    def answers(inputs: dict) -> list[list[int]]:
        with torch.no_grad():
            out = model.generate(**inputs, min_new_tokens=4, max_new_tokens=4, do_sample=False)
        return out[:, -4:].tolist()

    expected = [answers(inputs)[0] for inputs in alone]
    assert answers({name: together(name) for name in alone[0]}) == expected
    assert expected[0] != expected[1]


def test_text_goes_in_and_out_as_ours(exported, definition):
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
    asked = theirs.apply_chat_template(
        [{"role": "user", "content": "Who?"}], tokenize=False, add_generation_prompt=True
    )
    assert asked == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    assert theirs.eos_token_id == ours.end_of_turn


def test_a_tied_model_has_one_table_there_too(definition, prompt, tmp_path):
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
    close(our_logits(tied, params, prompt), their_logits(model.eval(), prompt))


@pytest.mark.parametrize("definition", ["m2la"], indirect=True)
def test_layers_of_unequal_latents_are_as_narrow_there(definition, noisy, prompt, tmp_path):
    """`kv_lora_rank_list`: the zeros that fill ours up are not in the folder, nor in the cache."""
    narrow, latents = jax.tree.map(np.copy, noisy), (24, 7, 16)
    attention = narrow["language_model"]["layers"]["self_attn"]
    for layer, rank in enumerate(latents):
        filled = slice(rank, definition.spec.text.kv_rank)
        attention["kv_a_proj"]["kernel"][layer, :, filled] = 0
        attention["kv_a_proj"]["bias"][layer, filled] = 0
        attention["kv_b_proj"]["kernel"][layer, filled] = 0
    rules, folder = processor.FrameRules(1.0, 2, 16, 4096, 65536), tmp_path / "model"
    write.export(folder, definition, narrow, compact_tokenizer.PATH, rules, {}, "float32")
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=True
    )
    assert not any(report[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched"))
    close(our_logits(definition, narrow, prompt), their_logits(model.eval(), prompt))
    with torch.no_grad():
        cache = model(**their_inputs(prompt), use_cache=True).past_key_values
    assert [layer.keys.shape[-1] for layer in cache.layers] == list(latents)


@pytest.mark.parametrize("definition", ["gqa"], indirect=True)
def test_a_folder_of_theirs_is_read(definition, exported, prompt, tmp_path):
    """A model that transformers made and saved, in its own spelling and its own shards."""
    settings = transformers.AutoConfig.from_pretrained(exported)
    torch.manual_seed(0)
    model = transformers.Qwen3VLForConditionalGeneration(settings).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path, max_shard_size="300KB")
    spec = config.read_spec(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    wanted = small_spec("gqa").text
    assert spec.text == dataclasses.replace(wanted, kv_rank=0)
    found = ModelDefinition(spec)
    close(our_logits(found, read.read_params(tmp_path, found), prompt), their_logits(model, prompt))
