"""What the sampler runs: prompts to caches, and caches to answers, one token a step.

    prefill:  the prompts side by side, one a row, padded on the right; every layer's cache is kept
    decode:   one token a step for all rows, until each has ended its turn or the limit is reached

Prefill scans over the stacked layers, as training does; decoding has arrays of its own for each
layer, cut from the stack once (see `Decoder.unstack`): a second copy of the decoder, in the dtype
of computation. On a mesh rows lie over replica and fsdp, and the entries of a row over context.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from data_pipelines.batch import Batch
from ivx.kernels.latent_decode.cache import LatentCache
from ivx.kernels.latent_decode.quantise import DTYPES, quantise
from ivx.models.decoder import Cache
from ivx.models.definition import ModelDefinition, Params
from ivx.models.grouped_attention import GroupedCache
from ivx.parallel import ambient, rules
from ivx.parallel.activations import constrain

# Room in caches comes in runs of so many tokens, of which TPU kernels make their blocks.
_PAGE = 128


class Prefilled(NamedTuple):
    """The cache of each layer after the prompts, and the next token's scores, float32 [B, V]."""

    caches: tuple[Cache, ...]
    logits: Float[Array, "b v"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoded:
    """What was generated.

    Attributes:
      tokens: int32 [B, n]; rows that have ended are filled with the closing token.
      logps: float32 [B, n], the model's log-probability of each, whatever the temperature.
    """

    tokens: Int[Array, "b n"]
    logps: Float[Array, "b n"]


def room(tokens: int, limit: int) -> int:
    """Entries that a cache holds for prompts padded to so many tokens, and for answers."""
    return -(-(tokens + limit) // _PAGE) * _PAGE


def jit_unstack(definition: ModelDefinition, mesh: Mesh | None) -> Callable:
    """`unstack` as the sampler calls it: parameters."""
    places = None if mesh is None else layer_shardings(definition, mesh)
    return jax.jit(functools.partial(unstack, definition), out_shardings=places)


def jit_prefill(definition: ModelDefinition, mesh: Mesh | None, cache: str) -> Callable:
    """`prefill` as the sampler calls it: parameters, a batch and lengths; capacity and group."""
    run = functools.partial(prefill, definition, cache=cache)
    run = run if mesh is None else ambient.under(mesh, run)
    return jax.jit(run, static_argnames=("capacity", "group"))


def jit_decode(definition: ModelDefinition, end: int, mesh: Mesh | None) -> Callable:
    """`decode` as the sampler calls it: caches and scores apart; caches are used up.

    Every device has all that was generated.
    """

    def run(params, layers, caches, logits, *rest, **options):
        filled = Prefilled(caches, logits)
        return decode(definition, end, params, layers, filled, *rest, **options)

    whole = None if mesh is None else rules.replicated(mesh)
    return jax.jit(
        run if mesh is None else ambient.under(mesh, run),
        static_argnames=("temperature", "limit"),
        donate_argnums=2,
        out_shardings=(whole, None),
    )


def layer_shardings(definition: ModelDefinition, mesh: Mesh) -> tuple[nnx.State, ...]:
    """Where the arrays of `unstack` lie: as in the stack, whose first axis is on every device."""
    stacked = rules.parameter_shardings(definition.abstract, mesh)["language_model"]["layers"]
    places = jax.tree.map(lambda place: NamedSharding(mesh, P(*place.spec[1:])), stacked)
    shapes = jax.eval_shape(functools.partial(unstack, definition), definition.abstract_params)
    return jax.tree.unflatten(
        jax.tree.structure(shapes), jax.tree.leaves(places) * definition.spec.text.depth
    )


def unstack(definition: ModelDefinition, params: Params) -> tuple[nnx.State, ...]:
    """The decoder's parameters layer by layer, for `decode`."""
    return definition.bind(params).language_model.unstack()


def prefill(
    definition: ModelDefinition,
    params: Params,
    batch: Batch,
    lengths_b: Int[Array, " b"],
    capacity: int,
    group: int = 1,
    cache: str = "compute",
) -> Prefilled:
    """Runs prompts; keeps caches with room for `capacity` tokens, `group` copies of each row.

    `cache` names what they are stored in, as `Sampler` has it.
    """
    model = definition.bind(params)
    output = model(batch, keep_cache=True)
    last_bd = jnp.take_along_axis(output.hidden, (lengths_b - 1)[:, None, None], 1)[:, 0]
    more = capacity - batch.tokens.shape[1]

    def grow(stacked: Array, layer: int) -> Array:
        return jnp.pad(stacked[layer], [(0, 0)] * (stacked.ndim - 3) + [(0, more), (0, 0)])

    def store(layer: int) -> Cache:
        kept = jax.tree.map(lambda a: grow(a, layer), output.cache)
        if DTYPES[cache] is not None:
            kept = quantise(kept.entries, DTYPES[cache])
        kept = jax.tree.map(lambda a: jnp.repeat(a, group, 0), kept)
        return jax.tree.map(lambda a, axes: constrain(a, *axes), kept, cache_axes(kept))

    caches = tuple(store(layer) for layer in range(definition.spec.text.depth))
    logits_bv = jnp.repeat(model.logits(last_bd), group, 0)
    return Prefilled(caches, constrain(logits_bv, "pack", "vocab"))


def cache_axes(cache: Cache) -> Cache:
    """Logical axes of its arrays."""
    if isinstance(cache, GroupedCache):
        return GroupedCache(*2 * [("pack", "kv_heads", "token", None)])
    scales = None if cache.scales is None else ("pack", None, "token")
    return LatentCache(("pack", "token", None), scales)


def decode(
    definition: ModelDefinition,
    end: int,
    params: Params,
    layers: Sequence[nnx.State],
    filled: Prefilled,
    lengths_b: Int[Array, " b"],
    positions_b: Int[Array, " b"],
    key: Array,
    temperature: float,
    limit: int,
) -> tuple[Decoded, tuple[Cache, ...]]:
    """Continues every row until it has ended or has `limit` tokens; temperature 0 is greedy.

    The loop stops once all rows have ended. `layers` are those of `unstack`. Given back, the caches
    can be written where those that came lie.
    """
    model = definition.bind(params)

    def choose(logits_bv: Array, number: Array) -> tuple[Array, Array]:
        """A token for each row, and its log-probability."""
        if temperature:
            draw = jax.random.fold_in(key, number)
            token_b = jax.random.categorical(draw, logits_bv / temperature)
        else:
            token_b = jnp.argmax(logits_bv, -1)
        logps_bv = jax.nn.log_softmax(logits_bv)
        return token_b.astype(jnp.int32), jnp.take_along_axis(logps_bv, token_b[:, None], 1)[:, 0]

    first_b, logp_b = choose(filled.logits, 0)
    rows = first_b.shape[0]
    start = Decoded(
        jnp.full((rows, limit), end, jnp.int32).at[:, 0].set(first_b),
        jnp.zeros((rows, limit), jnp.float32).at[:, 0].set(logp_b),
    )

    def going_on(carry) -> Array:
        decoded, _, number = carry
        return (number < limit) & jnp.any(decoded.tokens[:, number - 1] != end)

    def advance(carry):
        decoded, caches, number = carry
        last_b = decoded.tokens[:, number - 1]
        place_b1 = (positions_b + number - 1)[:, None]
        output = model.decode(last_b[:, None], place_b1, layers, caches, lengths_b + number - 1)
        token_b, logp_b = choose(model.logits(output.hidden[:, 0]), number)
        ended = last_b == end
        return (
            Decoded(
                decoded.tokens.at[:, number].set(jnp.where(ended, end, token_b)),
                decoded.logps.at[:, number].set(jnp.where(ended, 0.0, logp_b)),
            ),
            output.cache,
            number + 1,
        )

    decoded, caches, _ = jax.lax.while_loop(going_on, advance, (start, filled.caches, 1))
    return decoded, caches
