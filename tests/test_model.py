"""Invariants of the model: results that must not depend on how a computation is arranged."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import packing
from ivx.errors import UserError
from ivx.evaluation import probes
from ivx.models.definition import ModelDefinition
from ivx.models.rope import text_rope
from ivx.sampling import programs, sampler
from ivx.stages.language_model import LanguageModelStage
from tests.conftest import pack, small_spec

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def hidden(definition, params):
    return jax.jit(lambda batch: definition.bind(params)(batch).hidden)


def test_packed_samples_equal_single_samples(hidden, layouts, shape, rule):
    """The hidden states of videos and images do not depend on the other samples of the pack."""
    images = probes.lay_out({"mixed": probes.built_in()["mixed"]}, rule)
    together = [layouts[0], *images, layouts[1]]
    packed = np.asarray(hidden(pack(together, shape)))[0]
    first = 0
    for one in together:
        alone = np.asarray(hidden(pack([one], shape)))[0, : len(one.tokens)]
        np.testing.assert_allclose(
            packed[first : first + len(one.tokens)],
            alone,
            rtol=0,
            atol=TOLERANCE * np.abs(alone).max(),
        )
        first += len(one.tokens)


def test_packed_loss_is_the_sum_of_single_losses(definition, params, layouts, shape):
    """Numerators and denominators of the samples sum to those of their pack."""
    stage = LanguageModelStage(None, [], "square")
    loss = jax.jit(lambda batch: stage.loss(definition.bind(params), batch, {})[:2])
    together = layouts[:3]
    packed = [float(part) for part in loss(pack(together, shape))]
    alone = [[float(part) for part in loss(pack([one], shape))] for one in together]
    assert packed == pytest.approx(
        [sum(parts) for parts in zip(*alone, strict=True)], rel=TOLERANCE
    )


def test_joined_segments_change_the_second_sample(hidden, layouts, shape):
    """Shows that the tests of packing can fail."""
    batch = pack(layouts[:2], shape)
    joined = dict(vars(batch)) | {"segments": (batch.segments > 0).astype(np.int32)}
    apart, together = (
        np.asarray(hidden(type(batch)(**fields))) for fields in (vars(batch), joined)
    )
    second = np.flatnonzero(batch.segments[0] == 2)
    assert np.abs(apart - together)[0, second].max() > 1e-2


@pytest.fixture(scope="module")
def answered(layouts):
    """A sample with an answer of more than 8 tokens."""
    return next(one for one in layouts if one.trained.sum() > 8)


def step_by_step(definition, params, sample, shape, count, cache="compute") -> np.ndarray:
    """Logits of the last prompt token and of an answer that is fed `count` tokens at a time."""
    length, start = len(sample.tokens), int(np.flatnonzero(sample.trained)[0])
    prompt = jax.tree.map(np.copy, pack([sample], shape))
    prompt.segments[:, start:] = 0
    prompt.tokens[:, start:] = 0
    filled = jax.jit(programs.prefill, static_argnums=(0, 4, 5, 6))(
        definition, params, prompt, np.array([start]), shape.tokens, 1, cache
    )
    caches = filled.caches
    layers = jax.jit(programs.unstack, static_argnums=0)(definition, params)

    @jax.jit
    def step(tokens, positions, caches, number):
        model = definition.bind(params)
        output = model.decode(tokens, positions, layers, caches, number)
        return model.logits(output.hidden), output.cache

    found = [filled.logits]
    for number in range(start, length - count + 1, count):
        here = slice(number, number + count)
        positions = sample.positions[:, here]
        assert (positions == positions[0]).all(), "generated text has one position on all axes"
        tokens = jnp.array([sample.tokens[here]])
        logits, caches = step(tokens, positions[:1], caches, jnp.array([number]))
        found.append(logits[0])
    return np.concatenate(found)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_prefill_equals_decode(definition, params, answered, shape, count):
    """Decoding an answer with the cache gives the logits of the full sequence."""
    logits = jax.jit(lambda b: (m := definition.bind(params)).logits(m(b).hidden))
    whole = np.asarray(logits(pack([answered], shape)))[0]
    start = int(np.flatnonzero(answered.trained)[0])
    found = step_by_step(definition, params, answered, shape, count)
    np.testing.assert_allclose(
        found,
        whole[start - 1 :][: len(found)],
        rtol=0,
        atol=TOLERANCE * np.abs(whole[: len(answered.tokens)]).max(),
    )


@pytest.mark.parametrize("cache, bound", [("int8", 0.01), ("fp8", 0.05)])
def test_one_byte_cache_changes_log_probabilities_little(answered, shape, cache, bound):
    """The error relative to the standard deviation; a float32 error would mean an unused cache.

    The error of a number is at most half a step: 1 / 127 of the largest for int8, 1 / 16 for fp8.
    """
    definition = ModelDefinition(small_spec())
    params = definition.init(0)
    plain, stored = (
        jax.nn.log_softmax(step_by_step(definition, params, answered, shape, 3, one))
        for one in ("compute", cache)
    )
    error = np.square(stored - plain)[1:].mean() ** 0.5 / np.std(plain[1:])
    print(f"{cache}: {error:.1e} of the standard deviation {np.std(plain[1:]):.2f}")
    assert 1e-4 < error < bound
    np.testing.assert_array_equal(stored[0], plain[0], "prefill does not read the cache")


def test_grouped_attention_refuses_one_byte_cache():
    with pytest.raises(
        UserError, match="cache int8 requires latent attention, but this model has gqa"
    ):
        sampler.Sampler(ModelDefinition(small_spec("gqa")), {}, 0, cache="int8")


def test_greedy_decoding_equals_recomputation(definition, params, layouts, samples, rule):
    """The sampler equals the argmax of full forward passes, for rows of different lengths."""
    from ivx.evaluation.runner import as_prompt

    prompts = [rule.lay_out(as_prompt(sample), generate=True) for sample in samples[:3]]
    pixels = [prompt.read_patches() for prompt in prompts]
    end = rule.tokenizer.end_of_turn
    answers = sampler.Sampler(definition, params, end).generate(prompts, pixels, limit=5)

    @jax.jit
    def next_token(batch, lengths):
        model = definition.bind(params)
        logits = model.logits(model(batch).hidden)
        return jnp.argmax(jnp.take_along_axis(logits, lengths[:, None, None] - 1, 1)[:, 0], -1)

    whole = sampler.batch_prompts(prompts, pixels)
    batch = jax.tree.map(lambda a: np.array(a), whole.batch)
    lengths = whole.lengths.copy()
    written = [[] for _ in prompts]
    for number in range(5):
        tokens = np.asarray(next_token(batch, lengths))
        for row, token in enumerate(tokens):
            place = lengths[row]
            batch.tokens[row, place] = token
            batch.segments[row, place] = 1
            batch.positions[row, :, place] = whole.next_positions[row] + number
            written[row].append(int(token))
        lengths += 1
    for row, answer in enumerate(answers):
        expected = written[row][: written[row].index(end)] if end in written[row] else written[row]
        assert answer == expected


def test_slice_attends_only_to_itself(definition, params, layouts, shape):
    """Changing one slice's pixels does not change the features of other slices."""
    several = [one for one in layouts if len(one.slice_sizes) > 2][:1]
    batch = pack(several, shape)
    changed = jax.tree.map(np.copy, batch)
    changed.patches[batch.slices == 2] = 255 - changed.patches[batch.slices == 2]
    see = jax.jit(
        lambda b: definition.bind(params).visual(b.patches, b.slices, b.grid, b.slice_block)
    )
    before, after = see(batch), see(changed)
    group_slices = batch.slices.reshape(1, -1, 4)[0, :, 0]
    for a, b in (
        (before.tokens[0], after.tokens[0]),
        (before.features[1, 0], after.features[1, 0]),
    ):
        moved = np.abs(np.asarray(a) - np.asarray(b)).max(-1)
        assert moved[group_slices == 2].min() > 0
        assert moved[(group_slices != 2) & (group_slices > 0)].max() == 0


def test_every_parameter_gets_a_gradient(definition, params, layouts, shape):
    """Including the DeepStack mergers."""
    batch = pack(layouts[:2], shape)
    grads = jax.jit(
        jax.grad(
            lambda p: (
                jnp.square(definition.bind(p)(batch).hidden).sum() * 1e-3
                + definition.bind(p).logits(definition.bind(p)(batch).hidden).std()
            )
        )
    )(params)
    dead = [
        jax.tree_util.keystr(path)
        for path, grad in jax.tree_util.tree_leaves_with_path(grads)
        if not np.abs(np.asarray(grad)).max() > 0
    ]
    assert dead == []


def test_tied_head_is_the_embedding(definition):
    spec = definition.spec
    tied = ModelDefinition(
        dataclasses.replace(spec, text=dataclasses.replace(spec.text, tied=True))
    )
    shapes = tied.abstract_params
    assert definition.abstract_params.keys() - shapes.keys() == {"lm_head"}
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: rng.standard_normal(a.shape, np.float32), shapes)
    table_vd = params["embed_tokens"]["embedding"]
    hidden_d = jnp.asarray(table_vd[5])
    logits_v = jax.jit(lambda params: tied.bind(params).logits(hidden_d))(params)
    np.testing.assert_allclose(logits_v, table_vd @ hidden_d, rtol=1e-4, atol=1e-4)


def test_bfloat16_hidden_states_are_close_to_float32(layouts, shape):
    exact = ModelDefinition(small_spec())
    params = exact.init(0)
    batch = pack(layouts[:2], shape)
    rough = ModelDefinition(dataclasses.replace(small_spec(), dtype="bfloat16"))
    a, b = (
        np.asarray(jax.jit(lambda p, one=one: one.bind(p)(batch).hidden)(params), np.float32)
        for one in (exact, rough)
    )
    real = batch.segments > 0
    assert np.linalg.norm((a - b)[real]) / np.linalg.norm(a[real]) < 0.03


def test_interleaved_mrope_assigns_frequencies_to_axes():
    """Width 128, sections 24/20/20: j rotates with height if j % 3 == 1, with width if 2."""
    positions = np.zeros((1, 3, 1), np.int32)
    for axis, count in ((0, 24), (1, 20), (2, 20)):
        moved = positions.copy()
        moved[0, axis] = 1
        rotated = np.asarray(text_rope(moved, 128, 5e6, (24, 20, 20)).sin)[0, 0] != 0
        assert rotated.sum() == count
        assert set(np.flatnonzero(rotated)[:3] % 3) == {axis}


def test_prompts_are_padded_to_few_shapes(layouts):
    shapes = {sampler.prompt_shape([one]) for one in layouts}
    assert len(shapes) < len(layouts) / 2
    for one in layouts:
        shape = sampler.prompt_shape([one])
        assert len(one.tokens) <= shape.tokens < 2 * max(len(one.tokens), 64)
        assert packing.misfit(packing.size_of(one), shape) is None
