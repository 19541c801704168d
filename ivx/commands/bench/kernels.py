"""`ivx bench kernels`: latent attention on this CPU, by the clock, beside what one would use else.

decode   one layer's attention, projections and all, for one new token over a cache of S tokens:
         M2LA over its latents beside our own GQA over its keys and values, twice as many numbers
prefill  T tokens from their latents: `latent_attention`, which makes keys and values a group of
         heads at a time, beside all heads' keys and values and `jax.nn.dot_product_attention`

dot_product_attention takes values only as wide as keys, so that it gets them with zeros behind.
Peak memory is what the compiler plans for temporaries; it is exact on a CPU. TPU figures are not
timed but read from the compiler: `ivx compile kernel`.
"""

import dataclasses
import functools

from absl import flags

from ivx.commands.bench import timing

SIZES = ("8b", "64m", "tiny")
# Tokens a second of M2LA over those of GQA, from this context on.
TARGET, TARGET_CONTEXT = 1.8, 65536
_PACKAGES = ("jax", "jaxlib", "flax")


def define_flags() -> None:
    flags.DEFINE_enum("layer", "8b", list(SIZES), "bench kernels: whose layer is timed.")
    flags.DEFINE_list(
        "contexts", ["4096", "16384", "65536", "131072"], "bench kernels: tokens in the cache."
    )
    flags.DEFINE_list("prefills", ["1024", "4096"], "bench kernels: tokens of a prefill.")


def run(given) -> dict:
    cores = timing.use_cores(given.threads)
    before = timing.load()
    rows = [_decode(given.layer, int(length), given.repeats) for length in given.contexts]
    rows += [_prefill(given.layer, int(length), given.repeats) for length in given.prefills]
    result = {
        "machine": timing.machine(_PACKAGES) | {"cores": cores},
        "load": [before, timing.load()],
        "layer": given.layer,
        "repeats": given.repeats,
        "rows": rows,
    }
    print(_page(result))
    return result


def text_spec(layer: str, attention: str):
    """Sizes of the decoder whose layer is timed."""
    from ivx.commands.bench import model
    from ivx.models import spec

    return spec.base_8b(attention).text if layer == "8b" else model.spec(layer, attention).text


class _Decoder:
    """One layer's attention with a full cache; every call adds the last token anew."""

    def __init__(self, spec, length: int):
        import jax
        import jax.numpy as jnp
        from flax import nnx

        from ivx.models.decoder import ATTENTION
        from ivx.models.rope import text_rope

        graph, params = nnx.split(ATTENTION[spec.attention](spec, jnp.float32, nnx.Rngs(0)))
        rope_of = functools.partial(
            text_rope,
            width=spec.head_dim,
            theta=spec.rope_theta,
            sections=spec.mrope_sections,
        )

        def whole(params, x):
            places = jnp.broadcast_to(jnp.arange(x.shape[1]), (1, 3, x.shape[1]))
            ones = jnp.ones(x.shape[:2], jnp.int32)
            return nnx.merge(graph, params)(x, rope_of(places), ones)[1]

        def step(params, x, cache, lengths):
            rope = rope_of(jnp.broadcast_to(lengths, (1, 3, 1)))
            return nnx.merge(graph, params).decode(x, rope, cache, lengths)

        # The axis of tokens is the one that grows with them.
        shapes = [
            jax.eval_shape(whole, params, jax.ShapeDtypeStruct((1, n, spec.width), jnp.float32))
            for n in (2, 3)
        ]
        key = jax.random.key(0)
        self._cache = jax.tree.map(
            lambda a, b: jax.random.normal(
                key, [length if m != n else m for m, n in zip(a.shape, b.shape, strict=True)]
            ),
            *shapes,
        )
        self._params = params
        self._x = jax.random.normal(key, (1, 1, spec.width))
        self._lengths = jnp.array([length - 1], jnp.int32)
        lowered = jax.jit(step, donate_argnums=2).lower(params, self._x, self._cache, self._lengths)
        self._step = lowered.compile()
        self.temporaries = self._step.memory_analysis().temp_size_in_bytes
        self.cache_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(self._cache))

    def __call__(self) -> None:
        out, self._cache = self._step(self._params, self._x, self._cache, self._lengths)
        out.block_until_ready()


def _decode(layer: str, length: int, repeats: int) -> dict:
    made = {name: _Decoder(text_spec(layer, name), length) for name in ("m2la", "gqa")}
    times = timing.take_turns(made, repeats)
    return _row("decode", length, times, made, {n: one.cache_bytes for n, one in made.items()})


@dataclasses.dataclass(frozen=True)
class _Prefill:
    """A compiled function and what it is called with."""

    compiled: object
    arguments: tuple

    @property
    def temporaries(self) -> int:
        return self.compiled.memory_analysis().temp_size_in_bytes

    def __call__(self) -> None:
        self.compiled(*self.arguments).block_until_ready()


def _prefill(layer: str, length: int, repeats: int) -> dict:
    import jax
    import jax.numpy as jnp

    from ivx.kernels.latent_attention import latent_attention

    spec = text_spec(layer, "m2la")
    heads, width = spec.heads, spec.head_dim
    shapes = [
        (1, length, heads, width),
        (1, length, heads, width),
        (1, length, spec.kv_rank),
        (1, length, width),
        (spec.kv_rank, heads, 2 * width),
    ]
    keys = jax.random.split(jax.random.key(0), len(shapes))
    arrays = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    arrays[-1] = arrays[-1] * spec.kv_rank**-0.5
    segments = jnp.ones((1, length), jnp.int32)

    def ours(*arrays):
        return latent_attention(*arrays, segments)

    made = {
        name: _Prefill(jax.jit(function).lower(*arrays).compile(), tuple(arrays))
        for name, function in (("m2la", ours), ("dot_product_attention", materialised))
    }
    times = timing.take_turns(made, repeats)
    return _row("prefill", length, times, made, {})


def materialised(q_nope, q_rope, latent, k_rope, w_up):
    """Keys and values of all heads, and attention as JAX has it; arguments as of
    `latent_attention`, one sample a sequence.
    """
    import jax
    import jax.numpy as jnp

    width = q_nope.shape[-1]
    up = jnp.einsum("btr,rnk->btnk", latent, w_up)
    rope = jnp.broadcast_to(k_rope[:, :, None], (*up.shape[:3], k_rope.shape[-1]))
    q = jnp.concatenate([q_nope, q_rope], -1)
    k = jnp.concatenate([up[..., :width], rope], -1)
    v = jnp.pad(up[..., width:], ((0, 0), (0, 0), (0, 0), (0, k.shape[-1] - width)))
    return jax.nn.dot_product_attention(q, k, v, is_causal=True)[..., :width]


def _row(phase: str, length: int, times: dict, made: dict, caches: dict) -> dict:
    ours, other = (times[name].median for name in made)
    return {
        "phase": phase,
        "tokens": length,
        "ratio": round(other / ours, 3),
        "contestants": [
            {
                "name": name,
                "seconds": [round(turn, 6) for turn in times[name].turns],
                "median_ms": round(1e3 * times[name].median, 3),
                "spread": times[name].spread,
                "temporary_bytes": one.temporaries,
                "cache_bytes": caches.get(name),
            }
            for name, one in made.items()
        ],
    }


def _page(result: dict) -> str:
    """The result for reading."""
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    lines = [
        machine,
        f"load {result['load'][0]} before, {result['load'][1]} after; a layer of"
        f" {result['layer']}, float32, medians of {result['repeats']} turns",
        f"{'phase':8s} {'tokens':>8s} {'':22s} {'ms':>9s} {'temporaries':>12s} {'cache':>9s}"
        "  shortest - longest turn",
    ]
    for row in result["rows"]:
        for one in row["contestants"]:
            cache = f"{one['cache_bytes'] / 2**20:.1f} MiB" if one["cache_bytes"] else ""
            lines.append(
                f"{row['phase']:8s} {row['tokens']:8,d} {one['name']:22s} {one['median_ms']:9.2f}"
                f" {one['temporary_bytes'] / 2**20:8.1f} MiB {cache:>9s}  {one['spread']}"
            )
        wanted = (
            f", wanted {TARGET:g}"
            if row["phase"] == "decode" and row["tokens"] >= TARGET_CONTEXT
            else ""
        )
        lines.append(f"{'':17s} m2la is {row['ratio']:.2f} times as fast{wanted}")
    return "\n".join(lines)
