"""Checksums of arrays depend on every bit, but not on the sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ivx.parallel.mesh import make_mesh
from ivx.training.checkpoints import fingerprint
from ivx.training.checkpoints.fingerprint import fingerprints


@pytest.fixture
def tree():
    rng = np.random.default_rng(0)
    return {
        "layers": {"kernel": rng.normal(size=(3, 8, 16)).astype(np.float32)},
        "count": np.int32(7),
        "half": rng.normal(size=32).astype(jnp.bfloat16),
        "mask": rng.integers(0, 2, (4, 8)).astype(bool),
    }


def test_fingerprint_equals_formula():
    """1 * 1 + 2 * 3 + 3 * 5 for small integers; paths are dotted."""
    assert fingerprints({"a": {"b": np.array([1, 2, 3], np.int32)}}) == {"a.b": 22}
    assert fingerprints({"a": np.array([-1], np.int32)}) == {"a": 2**32 - 1}


def test_numpy_devices_and_meshes_agree(tree):
    expected = fingerprints(tree)
    assert fingerprints(jax.tree.map(jnp.asarray, tree)) == expected
    for sizes in ((4, 2), (2, 4)):
        mesh = make_mesh({"replica": 1, "fsdp": sizes[0], "tensor": sizes[1], "context": 1})
        specs = {
            "layers": {"kernel": PartitionSpec(None, "fsdp", "tensor")},
            "count": PartitionSpec(),
            "half": PartitionSpec("fsdp"),
            "mask": PartitionSpec(None, "tensor"),
        }
        shardings = [NamedSharding(mesh, spec) for spec in jax.tree.leaves(specs)]
        sharded = jax.device_put(tree, jax.tree.unflatten(jax.tree.structure(tree), shardings))
        assert fingerprints(sharded) == expected


def test_numpy_block_size_does_not_matter(tree, monkeypatch):
    expected = fingerprints(tree)
    monkeypatch.setattr(fingerprint, "_BLOCK", 16)
    assert fingerprints(tree) == expected


def test_every_bit_and_position_matters():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(5, 7)).astype(np.float32)
    [expected] = fingerprints([a]).values()
    for index in range(a.size):
        for bit in (0, 13, 31):
            other = a.copy()
            other.view(np.uint32).reshape(-1)[index] ^= np.uint32(1 << bit)
            assert fingerprints([other])["0"] != expected
    assert fingerprints([a[::-1]])["0"] != expected
    assert fingerprints([np.array([0.0], np.float32)]) != fingerprints(
        [np.array([-0.0], np.float32)]
    )


def test_strides_wrap_for_more_than_four_billion_elements():
    """Strides and indices are taken modulo 2^32, as the sum is."""
    assert fingerprint._strides((3, 2**20, 2**13)) == [2**33 % 2**32, 2**13, 1]
