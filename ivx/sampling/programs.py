"""The sampler's programs: prefill from prompts to caches, and decoding from caches to answers.

    prefill:  one prompt per row, padded on the right; returns every layer's cache
    decode:   one token per step for all rows, until all have ended or the limit is reached

Prefill scans over the stacked layers, as training does. Decoding uses separate arrays for each
layer, unstacked once (see `Decoder.unstack`): a second copy of the decoder in the compute dtype, or
on a CPU views of the stack. On a mesh, rows are sharded over replica and fsdp, and the cache
entries of a row over context.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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
from ivx.parallel import compiler, sharding
from ivx.parallel.sharding import constrain

# Cache capacities are multiples of this, as the TPU kernels require.
_PAGE = 128


class Prefilled(NamedTuple):
    """The cache of each layer after the prompts, and the next token's logits, float32 [B, V]."""

    caches: tuple[Cache, ...]
    logits: Float[Array, "b v"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoded:
    """Generated tokens.

    Attributes:
      tokens: int32 [B, n]; rows that have ended are padded with the end token.
      logps: float32 [B, n], log-probability of each token at temperature 1.
    """

    tokens: Int[Array, "b n"]
    logps: Float[Array, "b n"]


# Decoded tokens, caches, step.
Carry = tuple[Decoded, tuple[Cache, ...], Array]


def room(tokens: int, limit: int) -> int:
    """Cache capacity for prompts padded to `tokens` and answers of up to `limit` tokens."""
    return -(-(tokens + limit) // _PAGE) * _PAGE


def unstacked(definition: ModelDefinition, mesh: Mesh | None) -> Callable:
    """`unstack` as a function of the parameters; on a CPU without a copy, if nothing is cast."""
    copied = jit_unstack(definition, mesh)
    shapes = jax.eval_shape(functools.partial(unstack, definition), definition.abstract_params)

    def run(params: Params) -> tuple[nnx.State, ...]:
        stacked = jax.tree.leaves(params["language_model"]["layers"])
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(shapes[0])]
        placed = all(_on_cpu(leaf) and _is_on(leaf, mesh) for leaf in stacked)
        if not placed or [leaf.dtype for leaf in stacked] != dtypes:
            return copied(params)
        layers = [
            _view(leaf, index) for index in range(definition.spec.text.depth) for leaf in stacked
        ]
        return jax.tree.unflatten(jax.tree.structure(shapes), layers)

    return run


def _on_cpu(array: object) -> bool:
    """Whether this process has all of an array, on CPU devices."""
    local = isinstance(array, jax.Array) and array.is_fully_addressable
    return local and all(device.platform == "cpu" for device in array.devices())


def _is_on(array: Array, mesh: Mesh | None) -> bool:
    """Whether an array lies on the devices of a mesh; without a mesh, wherever it lies."""
    return mesh is None or array.devices() == set(mesh.devices.flat)


def _view(stacked: Array, index: int) -> Array:
    """A layer of a stack, which it shares memory with; its axis 0 is not sharded."""
    parts = [
        jax.device_put(np.asarray(shard.data.addressable_data(0))[index], shard.device)
        for shard in stacked.addressable_shards
    ]
    place = stacked.sharding
    if isinstance(place, NamedSharding):
        place = NamedSharding(place.mesh, P(*place.spec[1:]))
    return jax.make_array_from_single_device_arrays(stacked.shape[1:], place, parts)


def jit_unstack(definition: ModelDefinition, mesh: Mesh | None) -> Callable:
    """Jitted `unstack`; takes the parameters."""
    shardings = None if mesh is None else layer_shardings(definition, mesh)
    return jax.jit(functools.partial(unstack, definition), out_shardings=shardings)


def jit_prefill(definition: ModelDefinition, mesh: Mesh | None, cache: str) -> Callable:
    """Jitted `prefill`; takes parameters, batch and lengths, and static `capacity` and `group`."""
    run = functools.partial(prefill, definition, cache=cache)
    run = run if mesh is None else sharding.under_mesh(mesh, run)
    return jax.jit(
        run,
        static_argnames=("capacity", "group"),
        compiler_options=compiler.inference_options(mesh, definition.spec.dtype),
    )


def jit_decode(definition: ModelDefinition, end: int, mesh: Mesh | None) -> Callable:
    """Jitted `decode`; takes caches and logits separately and donates the caches.

    The generated tokens are replicated.
    """

    def run(
        params: Params,
        layers: Sequence[nnx.State],
        caches: tuple[Cache, ...],
        logits: Array,
        lengths_b: Array,
        positions_b: Array,
        key: Array,
        **options: Any,
    ) -> tuple[Decoded, tuple[Cache, ...]]:
        filled = Prefilled(caches, logits)
        return decode(
            definition, end, params, layers, filled, lengths_b, positions_b, key, **options
        )

    replicated = None if mesh is None else sharding.replicated(mesh)
    return jax.jit(
        run if mesh is None else sharding.under_mesh(mesh, run),
        static_argnames=("temperature", "limit"),
        donate_argnums=2,
        out_shardings=(replicated, None),
        compiler_options=compiler.inference_options(mesh, definition.spec.dtype),
    )


def layer_shardings(definition: ModelDefinition, mesh: Mesh) -> tuple[nnx.State, ...]:
    """Shardings of the arrays of `unstack`: those of the stack without its unsharded axis 0."""
    stacked = sharding.parameter_shardings(definition.abstract, mesh)["language_model"]["layers"]
    per_layer = jax.tree.map(lambda s: NamedSharding(mesh, P(*s.spec[1:])), stacked)
    shapes = jax.eval_shape(functools.partial(unstack, definition), definition.abstract_params)
    return jax.tree.unflatten(
        jax.tree.structure(shapes), jax.tree.leaves(per_layer) * definition.spec.text.depth
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
    """Runs prompts; returns caches of `capacity` entries, with `group` copies of each row.

    `cache` is the name of the cache dtype, as in `Sampler`.
    """
    model = definition.bind(params)
    output = model(batch, keep_cache=True)
    last_bd = jnp.take_along_axis(output.hidden, (lengths_b - 1)[:, None, None], 1)[:, 0]
    padding = capacity - batch.tokens.shape[1]

    def pad_layer(stacked: Array, layer: int) -> Array:
        return jnp.pad(stacked[layer], [(0, 0)] * (stacked.ndim - 3) + [(0, padding), (0, 0)])

    def store(layer: int) -> Cache:
        layer_cache = jax.tree.map(lambda a: pad_layer(a, layer), output.cache)
        if DTYPES[cache] is not None:
            layer_cache = quantise(layer_cache.entries, DTYPES[cache])
        layer_cache = jax.tree.map(lambda a: jnp.repeat(a, group, 0), layer_cache)
        return jax.tree.map(
            lambda a, axes: constrain(a, *axes), layer_cache, cache_axes(layer_cache)
        )

    caches = tuple(store(layer) for layer in range(definition.spec.text.depth))
    logits_bv = jnp.repeat(model.logits(last_bd), group, 0)
    return Prefilled(caches, constrain(logits_bv, "pack", "vocab"))


def cache_axes(cache: Cache) -> Cache:
    """Logical axes of the cache arrays."""
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

    The loop stops once all rows have ended. `layers` come from `unstack`. Returns the caches, so
    that donated input caches are updated in place.
    """
    model = definition.bind(params)

    def choose(logits_bv: Array, step: Array | int) -> tuple[Array, Array]:
        """A token for each row, and its log-probability."""
        if temperature:
            step_key = jax.random.fold_in(key, step)
            token_b = jax.random.categorical(step_key, logits_bv / temperature)
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

    def unfinished(carry: Carry) -> Array:
        decoded, _, step = carry
        return (step < limit) & jnp.any(decoded.tokens[:, step - 1] != end)

    def advance(carry: Carry) -> Carry:
        decoded, caches, step = carry
        last_b = decoded.tokens[:, step - 1]
        position_b1 = (positions_b + step - 1)[:, None]
        output = model.decode(last_b[:, None], position_b1, layers, caches, lengths_b + step - 1)
        token_b, logp_b = choose(model.logits(output.hidden[:, 0]), step)
        ended = last_b == end
        return (
            Decoded(
                decoded.tokens.at[:, step].set(jnp.where(ended, end, token_b)),
                decoded.logps.at[:, step].set(jnp.where(ended, 0.0, logp_b)),
            ),
            output.cache,
            step + 1,
        )

    decoded, caches, _ = jax.lax.while_loop(unfinished, advance, (start, filled.caches, 1))
    return decoded, caches
