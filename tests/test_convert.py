"""Whole models before and after the conversion.

The algebra of a layer is in test_conversion.py, the command in test_convert_command.py.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_pipelines.batch import Batch
from data_pipelines.layout import Layout
from data_pipelines.packing import PackShape
from experiments import base
from experiments import convert as convert_experiment
from ivx.conversion import convert, mean_rotation, partial_sums, statistics, steps
from ivx.conversion.method import Method
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition, Params
from ivx.models.rope import Rope, text_rope
from ivx.parallel.mesh import AXES
from ivx.stages.language_model import LanguageModelStage
from tests.attention_float64 import distance, normed, orthogonal
from tests.conftest import pack, small_spec


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
    """Packs spread over two devices."""
    return jax.sharding.Mesh(np.array(jax.devices()[:2]).reshape(2, 1, 1, 1), AXES)


@pytest.fixture(scope="module")
def batch(layouts: list[Layout], shape: PackShape) -> Batch:
    return jax.tree.map(
        lambda *packs: np.concatenate(packs), pack(layouts[:3], shape), pack(layouts[3:6], shape)
    )


@pytest.fixture(scope="module")
def grouped_model() -> ModelDefinition:
    return ModelDefinition(small_spec("gqa"))


def open_batches(*batches: Batch) -> Callable[[int], Iterator[Batch]]:
    """Returns these batches from a given index on."""
    return lambda first: iter(batches[first:])


class KeepsInput(nnx.Module):
    """Attention that returns its input as its cache."""

    def __init__(self, attention: nnx.Module) -> None:
        self.attention = attention

    def __call__(
        self, x_btd: jax.Array, rope: Rope, segments_bt: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return self.attention(x_btd, rope, segments_bt)[0], x_btd


def test_statistics_match_moments_of_hidden_states(
    grouped_model: ModelDefinition, batch: Batch, mesh: jax.sharding.Mesh
):
    params = grouped_model.init(1)

    @jax.jit
    def run(params: Params, batch: Batch) -> tuple[jax.Array, ...]:
        model = grouped_model.bind(params)
        layers = model.language_model.layers
        layers.self_attn = KeepsInput(layers.self_attn)
        plain = grouped_model.bind(params)(batch).hidden
        watched = statistics.watch(grouped_model.bind(params))(batch, keep_cache=True).hidden
        return model(batch, keep_cache=True).cache, plain, watched

    x_lbtd, plain, watched = (np.asarray(a, np.float64) for a in run(params, batch))
    np.testing.assert_allclose(watched, plain, atol=1e-6)

    collected = statistics.collect(grouped_model, params, open_batches(batch, batch), mesh)
    is_token = batch.segments > 0
    assert collected.tokens == 2 * is_token.sum() < 2 * is_token.size
    attention = jax.tree.map(
        lambda a: np.asarray(a, np.float64), params["language_model"]["layers"]["self_attn"]
    )
    rope = text_rope(batch.positions, 16, 1e4, (4, 2, 2))
    cos, sin = rope.cos[is_token], rope.sin[is_token]

    def roped(heads: np.ndarray) -> np.ndarray:
        a, b = np.split(heads.reshape(len(heads), -1, 16), 2, -1)
        c, s = cos[:, None], sin[:, None]
        return np.concatenate([a * c - b * s, b * c + a * s], -1)

    for layer, x in enumerate(x_lbtd[:, is_token]):
        q, k = (
            normed(
                x, attention[f"{n}_proj"]["kernel"][layer], attention[f"{n}_norm"]["scale"][layer]
            )
            for n in ("q", "k")
        )
        keys = roped(k).reshape(len(k), -1)
        cached = np.hstack([keys, x @ attention["v_proj"]["kernel"][layer]])
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
            assert distance(getattr(collected, name)[layer], 2 * expected) < 1e-5, name


def test_interrupted_pass_resumes_to_bitwise_equal_sums(
    grouped_model: ModelDefinition, batch: Batch, mesh: jax.sharding.Mesh, tmp_path: pathlib.Path
):
    """Killed in the third batch, after two are saved. Incomplete checkpoints are ignored."""
    params = grouped_model.init(1)
    batches = [dataclasses.replace(batch, tokens=(batch.tokens + n) % 700) for n in range(4)]
    expected = statistics.collect(grouped_model, params, open_batches(*batches), mesh)
    checkpoints = partial_sums.PartialSums(tmp_path / "sums", every=0.0)
    consumed = []

    def killed(first: int) -> Iterator[Batch]:
        for index, batch in enumerate(batches[first:], first):
            if len(consumed) == 2:
                raise KeyboardInterrupt
            consumed.append(index)
            yield batch

    with pytest.raises(KeyboardInterrupt):
        statistics.collect(grouped_model, params, killed, mesh, checkpoints)
    assert consumed == [0, 1] and checkpoints.load().batches == 2
    (tmp_path / "sums" / ".writing").mkdir()
    (tmp_path / "sums" / "000003").mkdir()  # without its state: interrupted before completion

    starts = []

    def resumed(first: int) -> Iterator[Batch]:
        starts.append(first)
        return iter(batches[first:])

    collected = statistics.collect(grouped_model, params, resumed, mesh, checkpoints)
    assert starts == [2] and collected.tokens == expected.tokens
    for field in dataclasses.fields(expected):
        np.testing.assert_array_equal(getattr(collected, field.name), getattr(expected, field.name))
    # A completed pass runs nothing again.
    repeated = statistics.collect(
        grouped_model, params, lambda first: open_batches(*batches)(first), mesh, checkpoints
    )
    np.testing.assert_array_equal(repeated.inputs, expected.inputs)
    told = []
    others = partial_sums.PartialSums(tmp_path / "sums", 0.0, origin="other data", tell=told.append)
    assert others.load() is None and "data or the model have changed" in told[0]
    for path in sorted((tmp_path / "sums" / "000004").iterdir()):
        good = path.read_bytes()
        middle = len(good) // 2
        for bad in (b"", b"null", good[:middle], good[:middle] + bytes(len(good) - middle)):
            path.write_bytes(bad)
            again = partial_sums.PartialSums(tmp_path / "sums", 0.0, tell=told.append)
            assert again.load() is None and "is damaged" in told.pop()
        path.write_bytes(good)
    assert checkpoints.load().batches == 4
    checkpoints.remove()
    assert checkpoints.load() is None


def test_non_finite_values_stop_the_pass(
    grouped_model: ModelDefinition, batch: Batch, mesh: jax.sharding.Mesh
):
    params = grouped_model.init(1)
    attention = params["language_model"]["layers"]["self_attn"]
    kernel = np.array(attention["k_proj"]["kernel"])
    kernel[1, 3, 3] = np.inf
    attention["k_proj"]["kernel"] = kernel
    with pytest.raises(
        UserError, match=r"layer 1 of the model .* not finite for calibration batch 0"
    ):
        statistics.collect(grouped_model, params, open_batches(batch), mesh)


def test_affine_fit_rejects_too_few_tokens():
    with pytest.raises(UserError, match=r"3,000 calibration tokens are too few.*4,097 unknowns"):
        statistics.check_tokens(3000, 4096, "affine")
    statistics.check_tokens(3000, 4096, "fold")
    statistics.check_tokens(200_000, 4096, "affine")


def test_mean_rotation_matches_attention_written_out(batch: Batch):
    """One layer of random queries and keys, with segments and padding."""
    rng = np.random.default_rng(6)
    q, k = (
        rng.standard_normal((*batch.segments.shape, heads, 16)).astype(np.float32)
        for heads in (4, 2)
    )
    rope = text_rope(batch.positions, 16, 1e4, (4, 2, 2))
    real, imaginary = np.asarray(
        mean_rotation.sum_rotations(
            jnp.asarray(q), jnp.asarray(k), rope, jnp.asarray(batch.segments)
        )
    )
    rotation = np.asarray(rope.cos, np.float64) + 1j * np.asarray(rope.sin, np.float64)
    expected = np.zeros((4, 8), complex)
    for segments, q_tnh, k_tkh, rotation_tj in zip(batch.segments, q, k, rotation, strict=True):
        for t in np.flatnonzero(segments):
            attended = np.flatnonzero(segments[: t + 1] == segments[t])
            for n in range(4):
                p = np.exp(k_tkh[attended, n // 2] @ q_tnh[t, n] / 4)
                relative = rotation_tj[attended] * rotation_tj[t].conj()
                expected[n] += (p / p.sum()) @ relative
    assert distance(real + 1j * imaginary, expected) < 1e-5


def exact_model(rank: int, alike: bool) -> tuple[ModelDefinition, Params]:
    """A model whose QK-norm is linear: one orthogonal matrix per head, as wide as the model.

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


def hidden_after_each_step(
    definition: ModelDefinition, params: Params, batch: Batch, mesh: jax.sharding.Mesh
) -> dict[str, np.ndarray]:
    """Final hidden states of the base and after each approximation, without padding."""
    sums = statistics.collect(definition, params, open_batches(batch), mesh)
    method = Method(rotation="real")
    fitted = convert.without_norm(definition, params, sums, method)
    result = convert.to_latent(definition, params, fitted, sums, method)
    return {
        step.name: np.asarray(
            jax.jit(lambda w, b, step=step: step.bind(w)(b).hidden)(step.weights, batch)
        )[batch.segments > 0]
        for step in steps.steps(definition, params, fitted, sums, method, result.params)
    }


def test_model_of_exact_layers_converts_exactly(batch: Batch, mesh: jax.sharding.Mesh):
    """Constant rms, keys of one direction, rank for the values: the hidden states are equal after
    every approximation, on video with three-axis positions."""
    hidden = hidden_after_each_step(*exact_model(rank=16, alike=True), batch, mesh)
    for name in ("qk_norm", "rope", "latent"):
        assert distance(hidden[name], hidden["base"]) < 1e-5, name


def test_model_without_rotations_converts_exactly_at_full_rank(
    batch: Batch, mesh: jax.sharding.Mesh
):
    """Heads that have nothing in common, all tokens at position 0."""
    definition, params = exact_model(rank=48, alike=False)
    still = dataclasses.replace(batch, positions=np.zeros_like(batch.positions))
    hidden = hidden_after_each_step(definition, params, still, mesh)
    for name in ("qk_norm", "rope", "latent"):
        assert distance(hidden[name], hidden["base"]) < 1e-5, name
    # With positions, only the fit stays exact; the loss of rope shows.
    hidden = hidden_after_each_step(definition, params, batch, mesh)
    assert distance(hidden["qk_norm"], hidden["base"]) < 1e-5
    assert distance(hidden["rope"], hidden["base"]) > 0.1


def test_converted_model_is_complete_and_its_report_is_plausible(
    grouped_model: ModelDefinition, batch: Batch, mesh: jax.sharding.Mesh
):
    params = grouped_model.init(3)
    sums = statistics.collect(grouped_model, params, open_batches(batch), mesh)
    result = convert.convert(grouped_model, params, sums, Method())

    latent_model = ModelDefinition(small_spec("m2la"))
    expected = jax.tree.map(lambda a: (a.shape, a.dtype), latent_model.abstract_params)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), result.params) == expected
    source = dict(jax.tree_util.tree_leaves_with_path(params))
    for path, leaf in jax.tree_util.tree_leaves_with_path(result.params):
        name = jax.tree_util.keystr(path)
        if "self_attn" not in name or "o_proj" in name:
            np.testing.assert_array_equal(leaf, source[path], name)

    assert len(result.report) == 3
    for layer in result.report:
        assert 0 < layer.query_error < 1 and 0 < layer.key_error < 1
        assert 0.5 <= layer.rope_energy <= 1  # the better of two heads has at least half
        assert 0 < layer.latent_energy <= 1 and layer.balance_ratio > 0
    stage = LanguageModelStage(None, [], "token")
    loss = jax.jit(lambda p, b: stage.loss(latent_model.bind(p), b, {}))(result.params, batch)
    assert np.isfinite(float(loss.total))


def test_latent_model_is_not_converted_again():
    definition = ModelDefinition(small_spec("m2la"))
    sums = statistics.Statistics(*[np.zeros(0)] * 9, tokens=0)
    with pytest.raises(UserError, match="attention m2la has no QK-norm"):
        convert.without_norm(definition, {}, sums, Method())


# ------------------------------------------------------------------- the command


def test_tiny_config_reads_videos_as_its_base_does():
    converted, source = (dict(e.get_config("tiny").data) for e in (convert_experiment, base))
    for key in ("train", "cache_gib"):
        converted.pop(key), source.pop(key)
    assert converted == source
