"""Whole models before and after the conversion.

The algebra of a layer is in test_conversion.py, the command in test_convert_command.py.
"""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from data_pipelines.batch import Batch
from experiments import base
from experiments import convert as convert_experiment
from ivx.conversion import convert, partial_sums, statistics, steps, turns
from ivx.conversion.method import Method
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition
from ivx.models.rope import text_rope
from ivx.parallel.mesh import AXES
from ivx.stages.language_model import LanguageModelStage
from tests.attention_float64 import distance, normed, orthogonal
from tests.conftest import pack, small_spec


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
    """Packs spread over two devices."""
    return jax.sharding.Mesh(np.array(jax.devices()[:2]).reshape(2, 1, 1, 1), AXES)


@pytest.fixture(scope="module")
def batch(layouts, shape) -> Batch:
    return jax.tree.map(
        lambda *packs: np.concatenate(packs), pack(layouts[:3], shape), pack(layouts[3:6], shape)
    )


@pytest.fixture(scope="module")
def grouped_model() -> ModelDefinition:
    return ModelDefinition(small_spec("gqa"))


def opened(*batches: Batch):
    """These batches, from any number on."""
    return lambda first: iter(batches[first:])


class KeepsInput(nnx.Module):
    """Attention that keeps its input where the cache was."""

    def __init__(self, attention):
        self.attention = attention

    def __call__(self, x_btd, rope, segments_bt):
        return self.attention(x_btd, rope, segments_bt)[0], x_btd


def test_the_statistics_are_those_of_the_hidden_states(grouped_model, batch, mesh):
    params = grouped_model.init(1)

    @jax.jit
    def run(params):
        model = grouped_model.bind(params)
        layers = model.language_model.layers
        layers.self_attn = KeepsInput(layers.self_attn)
        plain = grouped_model.bind(params)(batch).hidden
        watched = statistics.watch(grouped_model.bind(params))(batch, keep_cache=True).hidden
        return model(batch, keep_cache=True).cache, plain, watched

    x_lbtd, plain, watched = (np.asarray(a, np.float64) for a in run(params))
    np.testing.assert_allclose(watched, plain, atol=1e-6)

    found = statistics.collect(grouped_model, params, opened(batch, batch), mesh)
    real = batch.segments > 0
    assert found.tokens == 2 * real.sum() < 2 * real.size
    attention = jax.tree.map(
        lambda a: np.asarray(a, np.float64), params["language_model"]["layers"]["self_attn"]
    )
    cos = text_rope(batch.positions, 16, 1e4, (4, 2, 2)).cos[real]
    sin = text_rope(batch.positions, 16, 1e4, (4, 2, 2)).sin[real]

    def roped(heads: np.ndarray) -> np.ndarray:
        a, b = np.split(heads.reshape(len(heads), -1, 16), 2, -1)
        c, s = cos[:, None], sin[:, None]
        return np.concatenate([a * c - b * s, b * c + a * s], -1)

    for number, x in enumerate(x_lbtd[:, real]):
        q, k = (
            normed(
                x, attention[f"{n}_proj"]["kernel"][number], attention[f"{n}_norm"]["scale"][number]
            )
            for n in ("q", "k")
        )
        keys = roped(k).reshape(len(k), -1)
        cached = np.hstack([keys, x @ attention["v_proj"]["kernel"][number]])
        x = np.hstack([x, np.ones((len(x), 1))])
        for name, expected in {
            "inputs": x.T @ x,
            "queries": x.T @ q,
            "keys": x.T @ k,
            "values": x.T @ cached[:, 32:],
            "query_energy": np.vdot(q, q),
            "key_energy": np.vdot(k, k),
            "roped_queries": np.einsum("tnh,tni->nhi", *[roped(q)] * 2),
            "cached": cached.T @ cached,
        }.items():
            assert distance(getattr(found, name)[number], 2 * expected) < 1e-5, name


def test_a_pass_that_was_cut_off_goes_on_to_the_same_last_bit(grouped_model, batch, mesh, tmp_path):
    """Killed in the third batch, when two are kept; what an earlier kill left half written does no
    harm."""
    params = grouped_model.init(1)
    others = [dataclasses.replace(batch, tokens=(batch.tokens + n) % 700) for n in range(4)]
    whole = statistics.collect(grouped_model, params, opened(*others), mesh)
    kept = partial_sums.PartialSums(tmp_path / "sums", every=0.0)
    begun = []

    def killed(first: int):
        for number, one in enumerate(others[first:], first):
            if len(begun) == 2:
                raise KeyboardInterrupt
            begun.append(number)
            yield one

    with pytest.raises(KeyboardInterrupt):
        statistics.collect(grouped_model, params, killed, mesh, kept)
    assert begun == [0, 1] and kept.load().batches == 2
    (tmp_path / "sums" / ".writing").mkdir()
    (tmp_path / "sums" / "000003").mkdir()  # without its state: cut off before it was whole

    seen = []

    def going_on(first: int):
        seen.append(first)
        return iter(others[first:])

    found = statistics.collect(grouped_model, params, going_on, mesh, kept)
    assert seen == [2] and found.tokens == whole.tokens
    for field in dataclasses.fields(whole):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(whole, field.name))
    # Once through, nothing is run again.
    again = statistics.collect(
        grouped_model, params, lambda first: opened(*others)(first), mesh, kept
    )
    np.testing.assert_array_equal(again.inputs, whole.inputs)
    kept.remove()
    assert kept.load() is None


def test_numbers_that_are_none_end_the_pass(grouped_model, batch, mesh):
    params = grouped_model.init(1)
    attention = params["language_model"]["layers"]["self_attn"]
    kernel = np.array(attention["k_proj"]["kernel"])
    kernel[1, 3, 3] = np.inf
    attention["k_proj"]["kernel"] = kernel
    with pytest.raises(
        UserError, match=r"layer 1 of the model .* not finite for calibration batch 0"
    ):
        statistics.collect(grouped_model, params, opened(batch), mesh)


def test_too_few_tokens_are_refused_where_there_is_much_to_fit():
    with pytest.raises(UserError, match=r"3,000 calibration tokens are too few.*4,097 unknowns"):
        statistics.check_tokens(3000, 4096, "affine")
    statistics.check_tokens(3000, 4096, "fold")
    statistics.check_tokens(200_000, 4096, "affine")


def test_the_mean_turn_is_that_of_what_is_attended_to(batch):
    """By hand for one layer of random queries and keys, segments and padding and all."""
    rng = np.random.default_rng(6)
    q, k = (
        rng.standard_normal((*batch.segments.shape, heads, 16)).astype(np.float32)
        for heads in (4, 2)
    )
    rope = text_rope(batch.positions, 16, 1e4, (4, 2, 2))
    found = np.asarray(turns.total(q, k, rope, batch.segments))
    turn = np.asarray(rope.cos, np.float64) + 1j * np.asarray(rope.sin, np.float64)
    expected = np.zeros((4, 8), complex)
    for segments, q_tnh, k_tkh, turn_tj in zip(batch.segments, q, k, turn, strict=True):
        for t in np.flatnonzero(segments):
            seen = np.flatnonzero(segments[: t + 1] == segments[t])
            for n in range(4):
                p = np.exp(k_tkh[seen, n // 2] @ q_tnh[t, n] / 4)
                expected[n] += (p / p.sum()) @ (turn_tj[seen] * turn_tj[t].conj())
    assert distance(found[0] + 1j * found[1], expected) < 1e-5


def exact_model(rank: int, alike: bool) -> tuple[ModelDefinition, dict]:
    """A model whose QK-norm is linear: one orthogonal matrix a head, as wide as the model.

    With `alike`, the keys of all heads differ by signs of their rope pairs only.
    """
    spec = small_spec("gqa")
    text = dataclasses.replace(spec.text, width=16, norm_eps=1e-10, kv_rank=rank)
    definition = ModelDefinition(dataclasses.replace(spec, text=text))
    params, rng = definition.init(2), np.random.default_rng(5)
    attention = params["language_model"]["layers"]["self_attn"]
    for name, count in (("q", text.heads), ("k", text.kv_heads)):
        kernels = np.stack(
            [[3 * orthogonal(rng, 16) for _ in range(count)] for _ in range(text.depth)]
        )
        if alike and name == "k":
            signs = rng.choice([-1.0, 1.0], (text.depth, count, 1, 8))
            kernels = kernels[:, :1] * np.concatenate([signs, signs], -1)
        flat = np.moveaxis(kernels, 1, 2).reshape(text.depth, 16, -1)
        attention[f"{name}_proj"]["kernel"] = flat.astype(np.float32)
        scale = rng.uniform(0.5, 2, (text.depth, 16)).astype(np.float32)
        attention[f"{name}_norm"]["scale"] = scale
    return definition, params


def hidden_after_each_step(definition, params, batch, mesh) -> dict[str, np.ndarray]:
    """Final hidden states of the base and after each approximation, real tokens only."""
    sums = statistics.collect(definition, params, opened(batch), mesh)
    method = Method(rotation="real")
    fitted = convert.without_norm(definition, params, sums, method)
    result = convert.to_latent(definition, params, fitted, sums, method)
    return {
        step.name: np.asarray(
            jax.jit(lambda w, step=step: step.bind(w)(batch).hidden)(step.weights)
        )[batch.segments > 0]
        for step in steps.steps(definition, params, fitted, sums, method, result.params)
    }


def test_a_whole_model_converts_exactly_where_it_can(batch, mesh):
    """Constant rms, keys of one direction, rank for the values: the same hidden states at every
    step, video, three-axis positions and all."""
    found = hidden_after_each_step(*exact_model(rank=16, alike=True), batch, mesh)
    for name in ("qk_norm", "rope", "latent"):
        assert distance(found[name], found["base"]) < 1e-5, name


def test_a_whole_model_without_turns_converts_exactly_at_full_rank(batch, mesh):
    """Heads that have nothing in common, all tokens at position 0."""
    definition, params = exact_model(rank=48, alike=False)
    still = dataclasses.replace(batch, positions=np.zeros_like(batch.positions))
    found = hidden_after_each_step(definition, params, still, mesh)
    for name in ("qk_norm", "rope", "latent"):
        assert distance(found[name], found["base"]) < 1e-5, name
    # The same model where positions count: only the fit is exact, the loss of rope shows.
    found = hidden_after_each_step(definition, params, batch, mesh)
    assert distance(found["qk_norm"], found["base"]) < 1e-5
    assert distance(found["rope"], found["base"]) > 0.1


def test_a_converted_model_is_whole_and_its_report_makes_sense(grouped_model, batch, mesh):
    params = grouped_model.init(3)
    sums = statistics.collect(grouped_model, params, opened(batch), mesh)
    result = convert.convert(grouped_model, params, sums, Method())

    latent_model = ModelDefinition(small_spec("m2la"))
    expected = jax.tree.map(lambda a: (a.shape, a.dtype), latent_model.abstract_params)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), result.params) == expected
    before = dict(jax.tree_util.tree_leaves_with_path(params))
    for path, leaf in jax.tree_util.tree_leaves_with_path(result.params):
        name = jax.tree_util.keystr(path)
        if "self_attn" not in name or "o_proj" in name:
            np.testing.assert_array_equal(leaf, before[path], name)

    assert len(result.report) == 3
    for layer in result.report:
        assert 0 < layer.query_error < 1 and 0 < layer.key_error < 1
        assert 0.5 <= layer.rope_energy <= 1  # the better of two heads has half at least
        assert 0 < layer.latent_energy <= 1 and layer.balance_ratio > 0
    stage = LanguageModelStage(None, [], "token")
    loss = jax.jit(lambda p: stage.loss(latent_model.bind(p), batch, {}))(result.params)
    assert np.isfinite(float(loss.total))


def test_a_latent_model_is_not_converted_again(batch, mesh):
    definition = ModelDefinition(small_spec("m2la"))
    with pytest.raises(UserError, match="attention m2la has no QK-norm"):
        convert.without_norm(definition, {}, None, Method())


# ------------------------------------------------------------------- the command


def test_tiny_sees_videos_as_its_base_does():
    mine, its = (dict(e.get_config("tiny").data) for e in (convert_experiment, base))
    for other in ("train", "cache_gib"):
        mine.pop(other), its.pop(other)
    assert mine == its
