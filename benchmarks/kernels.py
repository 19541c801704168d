"""`python -m benchmarks kernels`: latent attention, timed against its alternatives.

decode   attention of one layer including projections, for one new token per row over a cache of S
         tokens: M2LA over latents against GQA over keys and values, which take twice the memory
prefill  T tokens from their latents: `latent_attention`, which expands keys and values for a
         group of heads at a time, against keys and values of all heads and
         `jax.nn.dot_product_attention`

dot_product_attention needs values as wide as keys, so they are padded with zeros. Memory is the
compiler's plan of temporaries, which is exact on a CPU. CPUs and GPUs run the XLA path of each op,
which the result names. If the bandwidth of the device is known, a decode step is compared with the
time to read the layer's weights and its cache once, a lower bound. For TPUs see
`python -m benchmarks schedules`, which reads the compiler's schedules and times nothing.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks import timing
from ivx.models.spec import TextSpec

SIZES = ("8b", "64m", "tiny")
DTYPES = ("float32", "bfloat16")
# Goal for tokens a second of M2LA over GQA, from this context on.
TARGET, TARGET_CONTEXT = 1.8, 65536
_PACKAGES = ("jax", "jaxlib", "flax")

SUMMARY = "Latent attention, timed against grouped attention."
EXAMPLE = "  python -m benchmarks kernels --layer=64m --contexts=4096,65536"


def define_flags() -> None:
    """Defines the flags of this benchmark."""
    timing.define_flags()
    flags.DEFINE_enum("layer", "8b", list(SIZES), "Model size whose layer is timed.")
    flags.DEFINE_list("contexts", ["4096", "16384", "65536", "131072"], "Tokens in the cache.")
    flags.DEFINE_list("rows", ["1"], "Sequences decoded together.")
    flags.DEFINE_list("prefills", ["1024", "4096"], "Tokens of a prefill.")
    flags.DEFINE_enum("dtype", "float32", list(DTYPES), "Of weights, caches and computation.")


def run(flag_values: Any, words: Sequence[str] = ()) -> dict:
    """Times every setting and prints a line per contestant."""
    del words
    cores = timing.use_cores(flag_values.threads)
    from benchmarks import accelerator
    from ivx.kernels import choice

    before = timing.load()
    result = {
        "machine": timing.machine(_PACKAGES) | {"cores": cores, "device": accelerator.name()},
        "path": choice.preferred(),
        "bandwidth": accelerator.bandwidth(),
        "layer": flag_values.layer,
        "dtype": flag_values.dtype,
        "repeats": flag_values.repeats,
        "rows": [],
    }
    print(_head(result), flush=True)
    settings = [
        (_decode, int(length), int(rows))
        for rows in flag_values.rows
        for length in flag_values.contexts
    ] + [(_prefill, int(length), 1) for length in flag_values.prefills]
    for measure, length, rows in settings:
        row = measure(flag_values.layer, flag_values.dtype, length, rows, flag_values.repeats)
        result["rows"].append(row)
        print(_lines(row), flush=True)
    result["load"] = [before, timing.load()]
    print("load {} before, {} after".format(*result["load"]))
    return result


def text_spec(layer: str, attention: str) -> TextSpec:
    """Sizes of the decoder whose layer is timed."""
    from benchmarks import model
    from ivx.models import spec

    return spec.base_8b(attention).text if layer == "8b" else model.spec(layer, attention).text


class _Decoder:
    """Attention of one layer with a full cache; every call writes the last token again."""

    def __init__(self, spec: TextSpec, dtype: str, length: int, rows: int) -> None:
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

        def entries(params: Any, x: jax.Array) -> Any:
            positions = jnp.broadcast_to(jnp.arange(x.shape[1]), (1, 3, x.shape[1]))
            segments = jnp.ones(x.shape[:2], jnp.int32)
            return nnx.merge(graph, params)(x, rope_of(positions), segments)[1]

        def step(params: Any, x: jax.Array, cache: Any, lengths: jax.Array) -> Any:
            rope = rope_of(jnp.broadcast_to(lengths[:, None, None], (rows, 3, 1)))
            return nnx.merge(graph, params).decode(x, rope, cache, lengths)

        # The token axis of the cache is the one that differs between 2 and 3 tokens.
        shapes = [
            jax.eval_shape(entries, params, jax.ShapeDtypeStruct((1, n, spec.width), dtype))
            for n in (2, 3)
        ]
        key = jax.random.key(0)

        def filled(a: Any, b: Any) -> jax.Array:
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

    def __call__(self) -> jax.Array:
        out, self._cache = self._step(self._params, self._x, self._cache, self._lengths)
        return out


def _decode(layer: str, dtype: str, length: int, rows: int, repeats: int) -> dict:
    contestants = {
        name: _Decoder(text_spec(layer, name), dtype, length, rows) for name in ("m2la", "gqa")
    }
    return _row("decode", length, rows, contestants, repeats)


@dataclasses.dataclass(frozen=True)
class _Prefill:
    """A compiled function and its arguments."""

    compiled: jax.stages.Compiled
    arguments: tuple
    cache_bytes: None = None
    read_bytes: None = None

    @property
    def temporaries(self) -> int:
        return self.compiled.memory_analysis().temp_size_in_bytes

    def __call__(self) -> jax.Array:
        return self.compiled(*self.arguments)


def _prefill(layer: str, dtype: str, length: int, rows: int, repeats: int) -> dict:
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

    def ours(*arrays: jax.Array) -> jax.Array:
        return latent_attention(*arrays, segments)

    contestants = {
        name: _Prefill(jax.jit(function).lower(*arrays).compile(), tuple(arrays))
        for name, function in (("m2la", ours), ("dot_product_attention", materialised))
    }
    return _row("prefill", length, rows, contestants, repeats)


def materialised(
    q_nope: jax.Array, q_rope: jax.Array, latent: jax.Array, k_rope: jax.Array, w_up: jax.Array
) -> jax.Array:
    """Expands keys and values of all heads and calls JAX's attention.

    The arguments are those of `latent_attention`, with one sample per sequence.
    """
    width = q_nope.shape[-1]
    up = jnp.einsum("btr,rnk->btnk", latent, w_up)
    rope = jnp.broadcast_to(k_rope[:, :, None], (*up.shape[:3], k_rope.shape[-1]))
    q = jnp.concatenate([q_nope, q_rope], -1)
    k = jnp.concatenate([up[..., :width], rope], -1)
    v = jnp.pad(up[..., width:], ((0, 0), (0, 0), (0, 0), (0, k.shape[-1] - width)))
    return jax.nn.dot_product_attention(q, k, v, is_causal=True)[..., :width]


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _row(phase: str, length: int, rows: int, contestants: Mapping, repeats: int) -> dict:
    """Times two contestants and compares them."""
    from benchmarks import accelerator

    times = accelerator.take_turns(contestants, repeats)
    ours, other = (times[name].median for name in contestants)
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
                "temporary_bytes": contestant.temporaries,
                "cache_bytes": contestant.cache_bytes,
                "bandwidth_share": _share(contestant.read_bytes, times[name].median),
            }
            for name, contestant in contestants.items()
        ],
    }


def _share(size: int | None, seconds: float) -> float | None:
    """Time to read `size` bytes at the bandwidth of the device, over the measured time."""
    from benchmarks import accelerator

    bandwidth = accelerator.bandwidth()
    return round(size / bandwidth / seconds, 3) if size and bandwidth else None


def _head(result: dict) -> str:
    """The header of the printed table."""
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    bandwidth = result["bandwidth"]
    memory = f"; memory bandwidth {bandwidth / 1e9:,.0f} GB/s, by the vendor" if bandwidth else ""
    return "\n".join(
        [
            machine + memory,
            f"one layer of {result['layer']}, {result['dtype']}, {result['path']} path;"
            f" medians of {result['repeats']} turns",
            f"{'phase':8s} {'tokens':>8s} {'rows':>4s} {'':22s} {'ms':>9s} {'temporaries':>12s}"
            f" {'cache':>12s} {'of bandwidth':>12s}  shortest - longest turn",
        ]
    )


def _lines(row: dict) -> str:
    """A row as printed lines."""
    lines = []
    for result in row["contestants"]:
        cache = f"{result['cache_bytes'] / 2**20:,.1f} MiB" if result["cache_bytes"] else ""
        share = f"{result['bandwidth_share']:.0%}" if result["bandwidth_share"] else ""
        lines.append(
            f"{row['phase']:8s} {row['tokens']:8,d} {row['rows']:4d} {result['name']:22s}"
            f" {result['median_ms']:9.3f} {result['temporary_bytes'] / 2**20:8,.1f} MiB"
            f" {cache:>12s} {share:>12s}  {result['spread']}"
        )
    goal = (
        f", goal {TARGET:g}" if row["phase"] == "decode" and row["tokens"] >= TARGET_CONTEXT else ""
    )
    lines.append(f"{'':22s} m2la is {row['ratio']:.2f} times as fast{goal}")
    return "\n".join(lines)
