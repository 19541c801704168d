"""Reference token scores with the full logits, for tests in any precision."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def token_scores(
    hidden_td: Float[Array, "*t d"],
    head_dv: Float[Array, "d v"],
    targets_t: Int[Array, "*t"],
    temperature: float = 1.0,
) -> tuple[Float[Array, "*t"], Float[Array, "*t"]]:
    """Log-probability of each target and entropy of each distribution."""
    exact = jnp.promote_types(jnp.float32, hidden_td.dtype)
    logits_tv = jnp.einsum("...d,dv->...v", hidden_td.astype(exact), head_dv.astype(exact))
    logps_tv = jax.nn.log_softmax(logits_tv / temperature)
    logps_t = jnp.take_along_axis(logps_tv, targets_t[..., None], -1)[..., 0]
    return logps_t, -(jnp.exp(logps_tv) * logps_tv).sum(-1)
