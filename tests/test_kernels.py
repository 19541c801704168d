"""Each op against its equation in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from ivx.kernels.latent_attention import reference
from ivx.kernels.latent_decode import latent_decode

B, N, H, P, R = 2, 3, 8, 4, 10


def inputs(length: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape)  # noqa: E731
    return {
        "q_nope_btnh": normal(B, length, N, H),
        "q_rope_btnp": normal(B, length, N, P),
        "latent_btr": normal(B, length, R),
        "k_rope_btp": normal(B, length, P),
        "w_up_rnk": normal(R, N, 2 * H),
    }


def relative(found, expected) -> float:
    """Largest error, relative to the largest value; a gradient that is 0 has to be 0."""
    return float(np.abs(np.asarray(found) - expected).max() / (np.abs(expected).max() or 1.0))


def test_absorbed_decode_equals_materialised():
    """The last token through the absorbed form is the last row of the whole sequence."""
    length = 40
    arrays = inputs(length)
    ones = np.ones((B, length), np.int32)
    with jax.enable_x64(True):
        exact = {name: jnp.asarray(array, jnp.float64) for name, array in arrays.items()}
        expected = np.asarray(reference.latent_attention(**exact, segments_bt=ones))[:, -1]
    single = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
    # What lies in the cache beyond the length must not matter.
    room = lambda a: jnp.pad(a, ((0, 0), (0, 9), (0, 0)), constant_values=1e3)  # noqa: E731
    found = latent_decode(
        single["q_nope_btnh"][:, -1],
        single["q_rope_btnp"][:, -1],
        room(single["latent_btr"]),
        room(single["k_rope_btp"]),
        single["w_up_rnk"],
        jnp.full(B, length),
    )
    assert relative(found, expected) < 1e-5
