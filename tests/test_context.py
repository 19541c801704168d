"""Packs split along `context`: the zigzag order, its load balance, and attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivx.errors import UserError
from ivx.kernels.dense_attention import causal_attention
from ivx.kernels.dense_attention.visits import KeyRange, causal_key_range, list_visits
from ivx.kernels.latent_attention import latent_attention
from ivx.parallel import zigzag
from ivx.parallel.mesh import make_mesh
from tests.attention import normal, packs, relative

CONTEXT_4 = {"replica": 1, "fsdp": 1, "tensor": 2, "context": 4}
CONTEXT_2 = {"replica": 2, "fsdp": 1, "tensor": 2, "context": 2}
CONTEXT_1 = {"replica": 2, "fsdp": 2, "tensor": 2, "context": 1}


@pytest.mark.parametrize("context", [1, 2, 8])
def test_zigzag_order_is_invertible(context):
    """Device i holds chunks i and 2 n - 1 - i."""
    x = jnp.arange(2 * 16 * 3).reshape(2, 16, 3)
    sizes = {"replica": 1, "fsdp": 8 // context, "tensor": 1, "context": context}
    with jax.set_mesh(make_mesh(sizes)):
        inside = jax.jit(zigzag.to_zigzag)(x)
        np.testing.assert_array_equal(jax.jit(zigzag.to_natural)(inside), x)
        np.testing.assert_array_equal(
            jax.jit(lambda a: zigzag.to_natural(zigzag.to_zigzag(a, 2), 2))(x.swapaxes(1, 2)),
            x.swapaxes(1, 2),
        )
    chunks = np.asarray(x).reshape(2, 2 * context, -1, 3)
    order = [c for i in range(context) for c in (i, 2 * context - 1 - i)] if context > 1 else [0, 1]
    np.testing.assert_array_equal(inside, chunks[:, order].reshape(x.shape))


def test_pack_that_cannot_be_split_is_refused():
    with (
        jax.set_mesh(make_mesh(CONTEXT_4)),
        pytest.raises(UserError, match=r"packs of 20 tokens .* a multiple of 8"),
    ):
        zigzag.to_zigzag(jnp.zeros((1, 20)))


def test_zigzag_shards_have_equal_work():
    """Each of 8 shards has the same number of visible keys and of visited block pairs."""
    shards, length, block = 8, 2048, 32
    first, last = causal_key_range(packs((length,), length=length))
    seen, pairs = [], []
    for shard in range(shards):
        size = length // (2 * shards)
        chunks = (shard, 2 * shards - 1 - shard)
        rows = np.concatenate([np.arange(c * size, (c + 1) * size) for c in chunks])
        own = KeyRange(first[:, rows], last[:, rows])
        seen.append(int((own.last - own.first + 1).sum()))
        pairs.append(int(list_visits(own, length, block, block).count))
    assert len(set(seen)) == 1
    assert len(set(pairs)) == 1
    # In natural order, the last shard has 15 times the visible keys of the first.
    natural = np.asarray(last - first + 1).reshape(shards, -1).sum(1)
    assert natural[-1] > 10 * natural[0]


@pytest.mark.parametrize("group", [None, 1])
@pytest.mark.parametrize("sizes", [CONTEXT_4, CONTEXT_2, CONTEXT_1])
def test_latent_attention_on_mesh_equals_single_device(sizes, group):
    """Values and gradients, with samples across chunks, padding, and one head at a time."""
    length = 64
    segments = packs((20, 30), (64,), length=length)
    arrays = normal(
        1,
        q_nope_btnh=(2, length, 4, 8),
        q_rope_btnp=(2, length, 4, 4),
        latent_btr=(2, length, 10),
        k_rope_btp=(2, length, 4),
        w_up_rnk=(10, 4, 16),
    )
    attend = functools.partial(latent_attention, group=group)
    _check_mesh(sizes, attend, arrays, segments)


@pytest.mark.parametrize(("heads", "kv_heads", "tensor"), [(4, 2, 2), (6, 3, 2), (8, 2, 4)])
def test_grouped_attention_on_mesh_equals_single_device(heads, kv_heads, tensor):
    """Key heads that `tensor` divides, that devices share, and fewer than devices."""
    segments = packs((20, 30), (64,), length=64)
    arrays = normal(
        2, q_btnh=(2, 64, heads, 8), k_btkh=(2, 64, kv_heads, 8), v_btkv=(2, 64, kv_heads, 8)
    )
    sizes = {"replica": 1, "fsdp": 1, "tensor": tensor, "context": 8 // tensor}
    _check_mesh(sizes, lambda **arrays: causal_attention(**arrays, scale=0.3), arrays, segments)


def _check_mesh(sizes, op, arrays, segments):
    """Compares values and gradients on a mesh with those of a single device."""
    heads = next(a for name, a in arrays.items() if name.startswith("q_")).shape[2]
    weights = np.random.default_rng(5).normal(size=(2, 64, heads, 8))

    def loss(arrays):
        """Inputs and outputs are in natural order, as in the decoder."""
        inside = {k: a if k == "w_up_rnk" else zigzag.to_zigzag(a) for k, a in arrays.items()}
        out = zigzag.to_natural(op(**inside, segments_bt=zigzag.to_zigzag(jnp.asarray(segments))))
        return (out * weights).sum(), out

    run = jax.value_and_grad(loss, has_aux=True)
    (_, single), single_grads = jax.jit(run)(arrays)
    with jax.set_mesh(make_mesh(sizes)):
        (_, out), grads = jax.jit(run)(arrays)
    assert relative(out, single) < 1e-5
    for name in arrays:
        assert relative(grads[name], single_grads[name]) < 1e-5, name
