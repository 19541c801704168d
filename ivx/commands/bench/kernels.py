"""`ivx bench kernels`: latent attention by the clock, beside what one would use else.

decode   one layer's attention, projections and all, for one new token of each of some rows over a
         cache of S tokens each: M2LA over its latents beside our own GQA over its keys and values,
         twice as many numbers
prefill  T tokens from their latents: `latent_attention`, which makes keys and values a group of
         heads at a time, beside all heads' keys and values and `jax.nn.dot_product_attention`

dot_product_attention takes values only as wide as keys, so that it gets them with zeros behind.
Peak memory is what the compiler plans for temporaries; it is exact on a CPU. On a CPU or GPU what
runs is the XLA path of each op, which is told with the result. Where the bandwidth of the device is
known, a decode step is held against it: no step can be shorter than it takes to read the layer's
weights and its cache once. TPU figures are not timed but read from the compiler: `ivx compile
kernel`.
"""

import dataclasses
import functools

from absl import flags

from ivx.commands.bench import timing

SIZES = ("8b", "64m", "tiny")
DTYPES = ("float32", "bfloat16")
# Tokens a second of M2LA over those of GQA, from this context on.
TARGET, TARGET_CONTEXT = 1.8, 65536
_PACKAGES = ("jax", "jaxlib", "flax")


def define_flags() -> None:
    flags.DEFINE_enum("layer", "8b", list(SIZES), "bench kernels: whose layer is timed.")
    flags.DEFINE_list(
        "contexts", ["4096", "16384", "65536", "131072"], "bench kernels: tokens in the cache."
    )
    flags.DEFINE_list("rows", ["1"], "bench kernels: sequences that are decoded side by side.")
    flags.DEFINE_list("prefills", ["1024", "4096"], "bench kernels: tokens of a prefill.")
    flags.DEFINE_enum(
        "dtype", "float32", list(DTYPES), "bench kernels: of weights, caches and computation."
    )


def run(given) -> dict:
    cores = timing.use_cores(given.threads)
    from ivx.commands.bench import accelerator
    from ivx.kernels import choice

    before = timing.load()
    result = {
        "machine": timing.machine(_PACKAGES) | {"cores": cores, "device": accelerator.name()},
        "path": choice.wanted(),
        "bandwidth": accelerator.bandwidth(),
        "layer": given.layer,
        "dtype": given.dtype,
        "repeats": given.repeats,
        "rows": [],
    }
    print(_head(result), flush=True)
    measured = [
        (_decode, int(length), int(rows)) for rows in given.rows for length in given.contexts
    ] + [(_prefill, int(length), 1) for length in given.prefills]
    for measure, length, rows in measured:
        row = measure(given.layer, given.dtype, length, rows, given.repeats)
        result["rows"].append(row)
        print(_lines(row), flush=True)
    result["load"] = [before, timing.load()]
    print("load {} before, {} after".format(*result["load"]))
    return result


def text_spec(layer: str, attention: str):
    """Sizes of the decoder whose layer is timed."""
    from ivx.commands.bench import model
    from ivx.models import spec

    return spec.base_8b(attention).text if layer == "8b" else model.spec(layer, attention).text


class _Decoder:
    """One layer's attention with a full cache; every call adds the last token anew."""

    def __init__(self, spec, dtype: str, length: int, rows: int):
        import jax
        import jax.numpy as jnp
        from flax import nnx

        from ivx.models.decoder import ATTENTION
        from ivx.models.rope import text_rope

        graph, params = nnx.split(ATTENTION[spec.attention](spec, jnp.dtype(dtype), nnx.Rngs(0)))
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
            rope = rope_of(jnp.broadcast_to(lengths[:, None, None], (rows, 3, 1)))
            return nnx.merge(graph, params).decode(x, rope, cache, lengths)

        # The axis of tokens is the one that grows with them.
        shapes = [
            jax.eval_shape(whole, params, jax.ShapeDtypeStruct((1, n, spec.width), dtype))
            for n in (2, 3)
        ]
        key = jax.random.key(0)

        def filled(a, b):
            """Random entries, the same in all rows."""
            shape = [length if m != n else m for m, n in zip(a.shape, b.shape, strict=True)]
            return jnp.repeat(jax.random.normal(key, shape, dtype), rows, 0)

        self._cache = jax.jit(lambda: jax.tree.map(filled, *shapes))()
        self._params = jax.tree.map(lambda a: a.astype(dtype), params)
        self._x = jax.random.normal(key, (rows, 1, spec.width), dtype)
        self._lengths = jnp.full(rows, length - 1, jnp.int32)
        lowered = jax.jit(step, donate_argnums=2).lower(
            self._params, self._x, self._cache, self._lengths
        )
        self._step = lowered.compile()
        self.temporaries = self._step.memory_analysis().temp_size_in_bytes
        self.cache_bytes = _bytes(self._cache)
        self.read_bytes = self.cache_bytes + _bytes(self._params)

    def __call__(self):
        out, self._cache = self._step(self._params, self._x, self._cache, self._lengths)
        return out


def _decode(layer: str, dtype: str, length: int, rows: int, repeats: int) -> dict:
    made = {name: _Decoder(text_spec(layer, name), dtype, length, rows) for name in ("m2la", "gqa")}
    return _row("decode", length, rows, made, repeats)


@dataclasses.dataclass(frozen=True)
class _Prefill:
    """A compiled function and what it is called with."""

    compiled: object
    arguments: tuple
    cache_bytes: None = None
    read_bytes: None = None

    @property
    def temporaries(self) -> int:
        return self.compiled.memory_analysis().temp_size_in_bytes

    def __call__(self):
        return self.compiled(*self.arguments)


def _prefill(layer: str, dtype: str, length: int, rows: int, repeats: int) -> dict:
    import jax
    import jax.numpy as jnp

    from ivx.kernels.latent_attention import latent_attention

    spec = text_spec(layer, "m2la")
    heads, width = spec.heads, spec.head_dim
    shapes = [
        (rows, length, heads, width),
        (rows, length, heads, width),
        (rows, length, spec.kv_rank),
        (rows, length, width),
        (spec.kv_rank, heads, 2 * width),
    ]
    keys = jax.random.split(jax.random.key(0), len(shapes))
    arrays = [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]
    arrays[-1] = arrays[-1] * spec.kv_rank**-0.5
    segments = jnp.ones((rows, length), jnp.int32)

    def ours(*arrays):
        return latent_attention(*arrays, segments)

    made = {
        name: _Prefill(jax.jit(function).lower(*arrays).compile(), tuple(arrays))
        for name, function in (("m2la", ours), ("dot_product_attention", materialised))
    }
    return _row("prefill", length, rows, made, repeats)


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


def _bytes(tree) -> int:
    import jax

    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _row(phase: str, length: int, rows: int, made: dict, repeats: int) -> dict:
    """Times two contestants and compares them."""
    from ivx.commands.bench import accelerator

    times = accelerator.take_turns(made, repeats)
    ours, other = (times[name].median for name in made)
    return {
        "phase": phase,
        "tokens": length,
        "rows": rows,
        "ratio": round(other / ours, 3),
        "contestants": [
            {
                "name": name,
                "seconds": [round(turn, 7) for turn in times[name].turns],
                "median_ms": round(1e3 * times[name].median, 4),
                "spread": times[name].spread,
                "temporary_bytes": one.temporaries,
                "cache_bytes": one.cache_bytes,
                "bandwidth_share": _share(one.read_bytes, times[name].median),
            }
            for name, one in made.items()
        ],
    }


def _share(read: int | None, seconds: float) -> float | None:
    """What the device would take to read so many bytes, over what it took."""
    from ivx.commands.bench import accelerator

    most = accelerator.bandwidth()
    return round(read / most / seconds, 3) if read and most else None


def _head(result: dict) -> str:
    """What the rows have in common."""
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    most = result["bandwidth"]
    memory = f"; its memory gives {most / 1e9:,.0f} GB/s, as its maker says" if most else ""
    return "\n".join(
        [
            machine + memory,
            f"a layer of {result['layer']}, {result['dtype']}, by the {result['path']} path;"
            f" medians of {result['repeats']} turns",
            f"{'phase':8s} {'tokens':>8s} {'rows':>4s} {'':22s} {'ms':>9s} {'temporaries':>12s}"
            f" {'cache':>12s} {'of bandwidth':>12s}  shortest - longest turn",
        ]
    )


def _lines(row: dict) -> str:
    """A row for reading."""
    lines = []
    for one in row["contestants"]:
        cache = f"{one['cache_bytes'] / 2**20:,.1f} MiB" if one["cache_bytes"] else ""
        share = f"{one['bandwidth_share']:.0%}" if one["bandwidth_share"] else ""
        lines.append(
            f"{row['phase']:8s} {row['tokens']:8,d} {row['rows']:4d} {one['name']:22s}"
            f" {one['median_ms']:9.3f} {one['temporary_bytes'] / 2**20:8,.1f} MiB"
            f" {cache:>12s} {share:>12s}  {one['spread']}"
        )
    wanted = (
        f", wanted {TARGET:g}"
        if row["phase"] == "decode" and row["tokens"] >= TARGET_CONTEXT
        else ""
    )
    lines.append(f"{'':22s} m2la is {row['ratio']:.2f} times as fast{wanted}")
    return "\n".join(lines)
