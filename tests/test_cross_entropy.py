"""Scores of tokens: values and gradients by their equations in float64, however they are laid."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from ivx.kernels import vocabulary
from ivx.kernels.cross_entropy import cross_entropy, reference, token_scores
from ivx.parallel import ambient
from ivx.parallel.mesh import make_mesh

NAMES = ("logps", "entropy", "hidden", "head")


def draw(tokens: int, width: int, vocab: int, scale: float = 3.0) -> dict[str, np.ndarray]:
    """Hidden states and a head whose logits are about `scale`, targets, and cotangents."""
    rng = np.random.default_rng(tokens + vocab)
    return {
        "hidden": rng.normal(size=(tokens, width)),
        "head": rng.normal(size=(width, vocab)) * scale / np.sqrt(width),
        "targets": rng.integers(0, vocab, tokens),
        "slopes": rng.normal(size=(2, tokens)),
    }


def by_hand(given: dict[str, np.ndarray], temperature: float = 1.0) -> dict[str, np.ndarray]:
    """Scores, and the gradients of sum_t slopes_t . (log p_t, H_t), in float64."""
    hidden, head, targets = (given[name] for name in ("hidden", "head", "targets"))
    logits = hidden @ head / temperature
    away = logits - logits.max(-1, keepdims=True)
    logp = away - np.log(np.exp(away).sum(-1, keepdims=True))
    p, rows = np.exp(logp), np.arange(len(hidden))
    entropy = -(p * logp).sum(-1)
    a, b = given["slopes"][:, :, None]
    slope = -p * (a + b * (logp + entropy[:, None]))
    slope[rows, targets] += a[:, 0]
    gradients = slope @ head.T / temperature, hidden.T @ slope / temperature
    return dict(zip(NAMES, (logp[rows, targets], entropy, *gradients), strict=True))


def scored(given: dict[str, np.ndarray], dtype=jnp.float32, **kwargs) -> dict[str, jax.Array]:
    """The same from the op; tokens that do not count have cotangents too."""
    hidden, head = (jnp.asarray(given[name], dtype) for name in ("hidden", "head"))
    slopes, targets = jnp.asarray(given["slopes"], jnp.float32), jnp.asarray(given["targets"])

    def total(hidden, head, targets):
        scores = token_scores(hidden, head, targets, **kwargs)
        return (slopes * jnp.stack(scores)).sum(), scores

    run = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
    (_, scores), gradients = run(hidden, head, targets)
    assert scores.logps.dtype == scores.entropy.dtype == jnp.float32
    return dict(zip(NAMES, (*scores, *gradients), strict=True))


def relative(found, right) -> float:
    """Largest error, relative to the largest value."""
    return float(np.abs(np.asarray(found, np.float64) - right).max() / np.abs(right).max())


@pytest.mark.parametrize(("tokens", "vocab"), [(1, 50), (5, 256), (16, 300), (37, 1000)])
def test_scores_and_gradients_equal_their_equations(small_chunks, tokens, vocab):
    """Within one chunk, and over several that divide tokens and vocabulary or do not."""
    given = draw(tokens, 12, vocab)
    right, found = by_hand(given), scored(given)
    for name in NAMES:
        assert relative(found[name], right[name]) < 1e-5, name


@pytest.mark.slow
def test_8192_tokens_in_the_chunks_of_the_real_sizes():
    given = draw(8192, 12, 20_000)
    right, found = by_hand(given), scored(given)
    for name in NAMES:
        assert relative(found[name], right[name]) < 1e-5, name


def test_the_reference_equals_its_equations():
    given = draw(5, 12, 50)
    with jax.enable_x64(True):
        found = reference.token_scores(given["hidden"], given["head"], given["targets"], 0.7)
    for one, name in zip(found, NAMES, strict=False):
        assert relative(one, by_hand(given, 0.7)[name]) < 1e-12


def test_logits_of_bf16_are_summed_in_float32(small_chunks):
    """What is lost is the rounding of the inputs' products, not of the sums over a vocabulary."""
    given = draw(37, 64, 1000)
    rounded = given | {
        name: np.asarray(jnp.asarray(given[name], jnp.bfloat16), np.float64)
        for name in ("hidden", "head")
    }
    right, found = by_hand(rounded), scored(given, jnp.bfloat16)
    assert found["hidden"].dtype == found["head"].dtype == jnp.bfloat16
    assert max(relative(found[name], right[name]) for name in ("logps", "entropy")) < 1e-5
    assert max(relative(found[name], right[name]) for name in ("hidden", "head")) < 1e-2


def test_a_temperature_divides_logits(small_chunks):
    given = draw(16, 12, 300)
    right, found = by_hand(given, 0.25), scored(given, temperature=0.25)
    for name in NAMES:
        assert relative(found[name], right[name]) < 1e-5, name


def test_extreme_logits_overflow_nothing(small_chunks):
    """Logits of +-30,000: probabilities of 0 and 1, and the log-probabilities of both."""
    given = draw(16, 12, 300, scale=3e4)
    right, found = by_hand(given), scored(given)
    assert right["logps"].min() < -2e4
    assert relative(found["logps"], right["logps"]) < 1e-5
    assert all(np.isfinite(found[name]).all() for name in NAMES)


def test_tokens_that_do_not_count_leave_no_trace(small_chunks):
    """Their hidden states are NaN, their targets not in the vocabulary."""
    given, counts = draw(40, 12, 300), np.arange(40) % 3 == 1
    poisoned = dict(given, hidden=given["hidden"].copy(), targets=given["targets"].copy())
    poisoned["hidden"][~counts], poisoned["targets"][~counts] = np.nan, -100
    kept = {
        name: given[name][..., counts] if name == "slopes" else given[name][counts]
        for name in ("hidden", "targets", "slopes")
    }
    right, found = by_hand(given | kept), scored(poisoned, scored_t=jnp.asarray(counts))
    for name in ("logps", "entropy", "hidden"):
        assert relative(found[name][counts], right[name]) < 1e-5, name
        assert not np.any(found[name][~counts]), name
    assert relative(found["head"], right["head"]) < 1e-5


def test_where_no_token_counts_all_is_zero(small_chunks):
    found = scored(draw(40, 12, 300), scored_t=jnp.zeros(40, bool))
    assert not any(np.any(found[name]) for name in NAMES)


def test_weights_multiply_the_loss(small_chunks):
    """Tokens of weight 0 are those that do not count."""
    given, weights = draw(16, 12, 300), np.arange(16) % 4 / 2.0
    hidden = np.where(weights[:, None] > 0, given["hidden"], np.nan)
    single = (jnp.asarray(a, jnp.float32) for a in (hidden, given["head"]))
    found = cross_entropy(*single, jnp.asarray(given["targets"]), jnp.asarray(weights))
    assert relative(found, -weights * by_hand(given)["logps"]) < 1e-5


@pytest.mark.parametrize(
    "sizes",
    [
        {"replica": 2, "fsdp": 2, "tensor": 2, "context": 1},
        {"replica": 1, "fsdp": 2, "tensor": 2, "context": 2},
        {"replica": 1, "fsdp": 1, "tensor": 8, "context": 1},
        {"replica": 1, "fsdp": 8, "tensor": 1, "context": 1},
    ],
    ids=lambda sizes: "x".join(map(str, sizes.values())),
)
def test_a_spread_vocabulary_scores_like_a_whole_one(small_chunks, sizes):
    """Packs, tokens, rows and columns of the head over eight devices; what does not divide stays
    whole: 4 packs over 8 devices, and 12 rows."""
    given, counts = draw(4 * 10, 12, 304), np.arange(40) % 3 > 0
    right = by_hand(given | {"slopes": given["slopes"] * counts})
    packed = {
        "hidden": given["hidden"].reshape(4, 10, 12),
        "targets": given["targets"].reshape(4, 10),
        "slopes": given["slopes"].reshape(2, 4, 10),
    }
    mesh = make_mesh(sizes)
    with jax.set_mesh(mesh):
        found = scored(given | packed, scored_t=jnp.asarray(counts.reshape(4, 10)))
    for name in ("logps", "entropy"):
        assert relative(found[name].reshape(-1), right[name] * counts) < 1e-5, name
    assert relative(found["hidden"].reshape(40, 12), right["hidden"]) < 1e-5
    assert relative(found["head"], right["head"]) < 1e-5


def test_a_head_that_lies_over_devices_is_never_whole_on_one():
    """Rows are gathered a chunk of columns at a time; gradients are scattered likewise."""
    mesh = make_mesh({"replica": 1, "fsdp": 4, "tensor": 2, "context": 1})
    place = jax.sharding.NamedSharding
    spec = jax.sharding.PartitionSpec
    shape = jax.ShapeDtypeStruct
    hidden = shape((4, 64, 64), jnp.float32, sharding=place(mesh, spec("fsdp")))
    head = shape((64, 40_000), jnp.float32, sharding=place(mesh, spec("fsdp", "tensor")))
    targets = shape((4, 64), jnp.int32, sharding=place(mesh, spec("fsdp")))
    loss = lambda *a: cross_entropy(*a).sum()  # noqa: E731
    step = jax.jit(ambient.under(mesh, jax.grad(loss, (0, 1))))
    text = step.lower(hidden, head, targets).compile().as_text()
    assert "f32[16,20000]" in text
    assert "f32[64,20000]" not in text and "40000]" not in text


def test_logits_are_never_whole():
    """The largest array there is, forwards or backwards, is a chunk's."""
    tokens, width, vocab = 8192, 8, 20_000
    shape = jax.ShapeDtypeStruct
    arrays = shape((tokens, width), jnp.float32), shape((width, vocab), jnp.float32)
    jaxpr = jax.make_jaxpr(jax.grad(lambda *a: cross_entropy(*a).sum(), (0, 1)))(
        *arrays, shape((tokens,), jnp.int32)
    )
    sizes = [v.aval.size for v in variables(jaxpr.jaxpr) if hasattr(v.aval, "size")]
    rows, columns = vocabulary.chunk_sizes(tokens, vocab)
    assert max(sizes) == rows * columns < tokens * vocab / 5


def variables(jaxpr):
    """All that is computed, in inner functions and loops too."""
    for equation in jaxpr.eqns:
        yield from equation.outvars
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from variables(inner)


def test_what_does_not_belong_together_is_named():
    hidden, head, targets = jnp.zeros((3, 4)), jnp.zeros((5, 7)), jnp.zeros(3, jnp.int32)
    with pytest.raises(ValueError, match=r"head \(5, 7\).*\[\.\.\., D\], \[D, V\]"):
        token_scores(hidden, head, targets)
    with pytest.raises(ValueError, match="temperature = 0 must be positive"):
        token_scores(hidden, head[:4], targets, temperature=0)
