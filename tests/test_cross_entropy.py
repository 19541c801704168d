"""Token scores and their gradients against float64, on one device and sharded."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from ivx.kernels import vocabulary
from ivx.kernels.cross_entropy import cross_entropy, reference, token_scores
from ivx.parallel import sharding
from ivx.parallel.mesh import make_mesh

NAMES = ("logps", "entropy", "hidden", "head")


def draw(tokens: int, width: int, vocab: int, scale: float = 3.0) -> dict[str, np.ndarray]:
    """Hidden states and a head whose logits are about `scale`, targets, and cotangents."""
    rng = np.random.default_rng(tokens + vocab)
    return {
        "hidden": rng.normal(size=(tokens, width)),
        "head": rng.normal(size=(width, vocab)) * scale / np.sqrt(width),
        "targets": rng.integers(0, vocab, tokens),
        "cotangents": rng.normal(size=(2, tokens)),
    }


def exact_scores(inputs: dict[str, np.ndarray], temperature: float = 1.0) -> dict[str, np.ndarray]:
    """Scores, and gradients of sum_t cotangents_t . (log p_t, H_t), in float64."""
    hidden, head, targets = (inputs[name] for name in ("hidden", "head", "targets"))
    logits = hidden @ head / temperature
    shifted = logits - logits.max(-1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    p, rows = np.exp(logp), np.arange(len(hidden))
    entropy = -(p * logp).sum(-1)
    a, b = inputs["cotangents"][:, :, None]
    gradient_tv = -p * (a + b * (logp + entropy[:, None]))
    gradient_tv[rows, targets] += a[:, 0]
    gradients = gradient_tv @ head.T / temperature, hidden.T @ gradient_tv / temperature
    return dict(zip(NAMES, (logp[rows, targets], entropy, *gradients), strict=True))


def op_scores(inputs: dict[str, np.ndarray], dtype=jnp.float32, **kwargs) -> dict[str, jax.Array]:
    """Scores and gradients of the op; unscored tokens have cotangents, too."""
    hidden, head = (jnp.asarray(inputs[name], dtype) for name in ("hidden", "head"))
    cotangents, targets = (
        jnp.asarray(inputs["cotangents"], jnp.float32),
        jnp.asarray(inputs["targets"]),
    )

    def total(hidden, head, targets):
        scores = token_scores(hidden, head, targets, **kwargs)
        return (cotangents * jnp.stack(scores)).sum(), scores

    run = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
    (_, scores), gradients = run(hidden, head, targets)
    assert scores.logps.dtype == scores.entropy.dtype == jnp.float32
    return dict(zip(NAMES, (*scores, *gradients), strict=True))


def relative(actual, expected) -> float:
    """Maximum error relative to the largest value."""
    return float(np.abs(np.asarray(actual, np.float64) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("tokens", "vocab"), [(1, 50), (5, 256), (16, 300), (37, 1000)])
def test_scores_and_gradients_match_float64(small_chunks, tokens, vocab):
    """Within one chunk, and over several that do or do not divide tokens and vocabulary."""
    given = draw(tokens, 12, vocab)
    right, found = exact_scores(given), op_scores(given)
    for name in NAMES:
        assert relative(found[name], right[name]) < 1e-5, name


@pytest.mark.slow
def test_scores_match_float64_with_real_chunk_sizes():
    given = draw(8192, 12, 20_000)
    right, found = exact_scores(given), op_scores(given)
    for name in NAMES:
        assert relative(found[name], right[name]) < 1e-5, name


def test_reference_matches_float64():
    given = draw(5, 12, 50)
    with jax.enable_x64(True):
        arrays = (jnp.asarray(given[name]) for name in ("hidden", "head", "targets"))
        found = reference.token_scores(*arrays, 0.7)
    for score, name in zip(found, NAMES, strict=False):
        assert relative(score, exact_scores(given, 0.7)[name]) < 1e-12


def test_bfloat16_logits_are_summed_in_float32(small_chunks):
    """Only the products of the inputs are rounded, not the sums over the vocabulary."""
    given = draw(37, 64, 1000)
    rounded = given | {
        name: np.asarray(jnp.asarray(given[name], jnp.bfloat16), np.float64)
        for name in ("hidden", "head")
    }
    right, found = exact_scores(rounded), op_scores(given, jnp.bfloat16)
    assert found["hidden"].dtype == found["head"].dtype == jnp.bfloat16
    assert max(relative(found[name], right[name]) for name in ("logps", "entropy")) < 1e-5
    assert max(relative(found[name], right[name]) for name in ("hidden", "head")) < 1e-2


def test_temperature_divides_logits(small_chunks):
    given = draw(16, 12, 300)
    right, found = exact_scores(given, 0.25), op_scores(given, temperature=0.25)
    for name in NAMES:
        assert relative(found[name], right[name]) < 1e-5, name


def test_extreme_logits_do_not_overflow(small_chunks):
    """Logits of +-30,000 give probabilities of 0 and 1 and finite log-probabilities."""
    given = draw(16, 12, 300, scale=3e4)
    right, found = exact_scores(given), op_scores(given)
    assert right["logps"].min() < -2e4
    assert relative(found["logps"], right["logps"]) < 1e-5
    assert all(np.isfinite(found[name]).all() for name in NAMES)


def test_unscored_tokens_have_no_effect(small_chunks):
    """Even with hidden states of NaN and targets outside the vocabulary."""
    given, counts = draw(40, 12, 300), np.arange(40) % 3 == 1
    poisoned = dict(given, hidden=given["hidden"].copy(), targets=given["targets"].copy())
    poisoned["hidden"][~counts], poisoned["targets"][~counts] = np.nan, -100
    kept = {
        name: given[name][..., counts] if name == "cotangents" else given[name][counts]
        for name in ("hidden", "targets", "cotangents")
    }
    right, found = exact_scores(given | kept), op_scores(poisoned, scored_t=jnp.asarray(counts))
    for name in ("logps", "entropy", "hidden"):
        assert relative(found[name][counts], right[name]) < 1e-5, name
        assert not np.any(found[name][~counts]), name
    assert relative(found["head"], right["head"]) < 1e-5


def test_all_results_are_zero_without_scored_tokens(small_chunks):
    found = op_scores(draw(40, 12, 300), scored_t=jnp.zeros(40, bool))
    assert not any(np.any(found[name]) for name in NAMES)


def test_weights_multiply_the_loss(small_chunks):
    """Tokens of weight 0 are not scored."""
    given, weights = draw(16, 12, 300), np.arange(16) % 4 / 2.0
    hidden = np.where(weights[:, None] > 0, given["hidden"], np.nan)
    single = (jnp.asarray(a, jnp.float32) for a in (hidden, given["head"]))
    found = cross_entropy(*single, jnp.asarray(given["targets"]), jnp.asarray(weights))
    assert relative(found, -weights * exact_scores(given)["logps"]) < 1e-5


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
def test_sharded_scores_equal_single_device(small_chunks, sizes):
    """Packs, tokens, and rows and columns of the head over eight devices.

    Axes that do not divide are replicated: 4 packs over 8 devices, and 12 rows.
    """
    given, counts = draw(4 * 10, 12, 304), np.arange(40) % 3 > 0
    right = exact_scores(given | {"cotangents": given["cotangents"] * counts})
    packed = {
        "hidden": given["hidden"].reshape(4, 10, 12),
        "targets": given["targets"].reshape(4, 10),
        "cotangents": given["cotangents"].reshape(2, 4, 10),
    }
    mesh = make_mesh(sizes)
    with jax.set_mesh(mesh):
        found = op_scores(given | packed, scored_t=jnp.asarray(counts.reshape(4, 10)))
    for name in ("logps", "entropy"):
        assert relative(found[name].reshape(-1), right[name] * counts) < 1e-5, name
    assert relative(found["hidden"].reshape(40, 12), right["hidden"]) < 1e-5
    assert relative(found["head"], right["head"]) < 1e-5


def test_sharded_head_is_never_gathered_in_full():
    """Rows are gathered one chunk of columns at a time; gradients are scattered likewise."""
    mesh = make_mesh({"replica": 1, "fsdp": 4, "tensor": 2, "context": 1})
    named = jax.sharding.NamedSharding
    spec = jax.sharding.PartitionSpec
    shape = jax.ShapeDtypeStruct
    hidden = shape((4, 64, 64), jnp.float32, sharding=named(mesh, spec("fsdp")))
    head = shape((64, 40_000), jnp.float32, sharding=named(mesh, spec("fsdp", "tensor")))
    targets = shape((4, 64), jnp.int32, sharding=named(mesh, spec("fsdp")))
    loss = lambda *a: cross_entropy(*a).sum()  # noqa: E731
    step = jax.jit(sharding.under_mesh(mesh, jax.grad(loss, (0, 1))))
    text = step.lower(hidden, head, targets).compile().as_text()
    assert "f32[16,20000]" in text
    assert "f32[64,20000]" not in text and "40000]" not in text


def test_logits_are_never_materialized_in_full():
    """The largest array of the forward and backward pass is a chunk of logits."""
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
    """All variables of a jaxpr, including inner functions and loops."""
    for equation in jaxpr.eqns:
        yield from equation.outvars
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from variables(inner)


def test_mismatched_shapes_are_refused():
    hidden, head, targets = jnp.zeros((3, 4)), jnp.zeros((5, 7)), jnp.zeros(3, jnp.int32)
    with pytest.raises(ValueError, match=r"head \(5, 7\).*expected \[\.\.\., D\], \[D, V\]"):
        token_scores(hidden, head, targets)
    with pytest.raises(ValueError, match=r"temperature = 0\.0 must be positive"):
        token_scores(hidden, head[:4], targets, temperature=0.0)
