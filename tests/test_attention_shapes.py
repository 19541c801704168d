"""Dense and latent attention in random shapes: hypothesis draws packs, heads and widths."""

import functools

import numpy as np
import pytest

from ivx.kernels import choice, dense_attention
from ivx.kernels.dense_attention import reference
from ivx.kernels.latent_attention import latent_attention
from ivx.kernels.latent_attention import reference as latent_reference
from tests.attention import TOLERANCE, errors, normal, packs
from tests.test_dense_attention_tpu import small_blocks  # noqa: F401

hypothesis = pytest.importorskip("hypothesis", reason="comes with ivx[test]")
st = hypothesis.strategies


def few(examples: int):
    """Each example is compiled, so the examples are few and deterministic, for the cache."""
    return hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    )


@st.composite
def segments(draw, most: int) -> np.ndarray:
    """One or two packs of one length, with samples of up to `most` tokens and optional padding.

    A pack may consist of padding only.
    """
    rows = draw(st.lists(st.lists(st.integers(1, most), max_size=6), min_size=1, max_size=2))
    length = max(1, max(map(sum, rows)) + draw(st.integers(0, 9)))
    return packs(*map(tuple, rows), length=length)


def dense_errors(rows, heads, kv_heads, width, values, dtype="float32") -> dict[str, float]:
    """Errors of outputs and gradients for these sizes."""
    shape = rows.shape
    options = {"segments_bt": rows, "scale": width**-0.5}
    return errors(
        functools.partial(dense_attention.causal_attention, **options),
        functools.partial(reference.causal_attention, **options),
        normal(
            rows.size,
            q_btnh=(*shape, heads, width),
            k_btkh=(*shape, kv_heads, width),
            v_btkv=(*shape, kv_heads, values),
        ),
        dtype,
    )


@few(4)
@hypothesis.given(
    rows=segments(90), heads=st.integers(1, 3), shared=st.integers(1, 3), width=st.integers(1, 20),
    values=st.integers(1, 20), dtype=st.sampled_from(list(TOLERANCE)),
)  # fmt: skip
def test_dense_attention_matches_reference_in_any_shape(rows, heads, shared, width, values, dtype):
    actual = dense_errors(rows, heads * shared, heads, width, values, dtype)
    assert max(actual.values()) < TOLERANCE[dtype], actual


@few(2)
@hypothesis.given(
    rows=segments(180), shared=st.integers(1, 2), width=st.sampled_from([128, 256])
)  # fmt: skip
def test_dense_attention_kernels_match_reference_in_any_shape(small_blocks, rows, shared, width):  # noqa: F811
    with choice.force("tpu", True):
        actual = dense_errors(rows, shared, 1, width, 128)
    assert max(actual.values()) < TOLERANCE["float32"], actual


@few(2)
@hypothesis.given(
    rows=segments(40), heads=st.integers(1, 6), group=st.integers(1, 6), rank=st.integers(1, 12),
    nope=st.integers(1, 9), rope=st.integers(1, 5),
)  # fmt: skip
def test_latent_attention_matches_reference_in_any_shape(rows, heads, group, rank, nope, rope):
    shape = rows.shape
    actual = errors(
        functools.partial(latent_attention, segments_bt=rows, group=group),
        functools.partial(latent_reference.latent_attention, segments_bt=rows),
        normal(
            rows.size,
            q_nope_btnh=(*shape, heads, nope),
            q_rope_btnp=(*shape, heads, rope),
            latent_btr=(*shape, rank),
            k_rope_btp=(*shape, rope),
            w_up_rnk=(rank, heads, 2 * nope),
        ),
        "float32",
    )
    assert max(actual.values()) < TOLERANCE["float32"], actual


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["xla", "tpu"])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(
    "samples", [(8192,), (1, 2047, 2048, 4095), (4096, 4000)], ids=["one", "four", "padding"]
)
def test_dense_attention_matches_reference_up_to_8192_tokens(samples, dtype, implementation):
    """With the real block sizes of the TPU kernel (interpreted) and of XLA."""
    rows = packs(samples, length=8192)
    with choice.force(implementation, True):
        actual = dense_errors(rows, 1, 1, 128, 128, dtype)
    assert max(actual.values()) < TOLERANCE[dtype], actual
