"""Dense and latent attention in shapes that nobody chose: hypothesis draws packs, heads, widths."""

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
    """Every example is compiled; the same ones each time, so that the cache knows them."""
    return hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    )


@st.composite
def segments(draw, most: int) -> np.ndarray:
    """One or two packs of samples of up to `most` tokens, of one length, with padding or without.

    A pack may be nothing but padding.
    """
    rows = draw(st.lists(st.lists(st.integers(1, most), max_size=6), min_size=1, max_size=2))
    length = max(1, max(map(sum, rows)) + draw(st.integers(0, 9)))
    return packs(*map(tuple, rows), length=length)


def dense_errors(rows, heads, kv_heads, width, values, dtype="float32") -> dict[str, float]:
    """Of outputs and gradients of a call of these sizes."""
    place = rows.shape
    given = {"segments_bt": rows, "scale": width**-0.5}
    return errors(
        functools.partial(dense_attention.causal_attention, **given),
        functools.partial(reference.causal_attention, **given),
        normal(
            rows.size,
            q_btnh=(*place, heads, width),
            k_btkh=(*place, kv_heads, width),
            v_btkv=(*place, kv_heads, values),
        ),
        dtype,
    )


@few(6)
@hypothesis.given(
    rows=segments(90), heads=st.integers(1, 3), shared=st.integers(1, 3), width=st.integers(1, 20),
    values=st.integers(1, 20), dtype=st.sampled_from(list(TOLERANCE)),
)  # fmt: skip
def test_dense_attention(rows, heads, shared, width, values, dtype):
    found = dense_errors(rows, heads * shared, heads, width, values, dtype)
    assert max(found.values()) < TOLERANCE[dtype], found


@few(2)
@hypothesis.given(
    rows=segments(180), shared=st.integers(1, 2), width=st.sampled_from([128, 256])
)  # fmt: skip
def test_dense_attention_by_its_kernels(small_blocks, rows, shared, width):  # noqa: F811
    with choice.force("tpu", True):
        found = dense_errors(rows, shared, 1, width, 128)
    assert max(found.values()) < TOLERANCE["float32"], found


@few(4)
@hypothesis.given(
    rows=segments(40), heads=st.integers(1, 6), group=st.integers(1, 6), rank=st.integers(1, 12),
    nope=st.integers(1, 9), rope=st.integers(1, 5),
)  # fmt: skip
def test_latent_attention(rows, heads, group, rank, nope, rope):
    place = rows.shape
    found = errors(
        functools.partial(latent_attention, segments_bt=rows, group=group),
        functools.partial(latent_reference.latent_attention, segments_bt=rows),
        normal(
            rows.size,
            q_nope_btnh=(*place, heads, nope),
            q_rope_btnp=(*place, heads, rope),
            latent_btr=(*place, rank),
            k_rope_btp=(*place, rope),
            w_up_rnk=(rank, heads, 2 * nope),
        ),
        "float32",
    )
    assert max(found.values()) < TOLERANCE["float32"], found


@pytest.mark.slow
@pytest.mark.parametrize("way", ["xla", "tpu"])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(
    "samples", [(8192,), (1, 2047, 2048, 4095), (4096, 4000)], ids=["one", "four", "padding"]
)
def test_lengths_up_to_8192(samples, dtype, way):
    """In the blocks that a TPU has, interpreted, and in those of XLA."""
    rows = packs(samples, length=8192)
    with choice.force(way, True):
        found = dense_errors(rows, 1, 1, 128, 128, dtype)
    assert max(found.values()) < TOLERANCE[dtype], found
