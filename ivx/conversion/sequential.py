"""Converts layer by layer: each layer is fitted on the outputs of the converted layers below it.

A pass runs two streams as one batch of twice the packs:

    source     x  through the original model
    converted  x' through the layers already converted, then through the original ones

Layer l is solved from sums over its actual input x'_l. Its targets are the queries, keys and values
that the source computes from x_l. A layer thus recovers some of the loss of those below it. With
`fit_output` a second pass refits o_proj to the source's attention
(`ivx.conversion.output_projection`). This takes one or two passes per layer, where otherwise one
pass serves all layers.
"""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from data_pipelines.batch import Batch
from ivx import progress
from ivx.conversion import convert, layer, output_projection, statistics
from ivx.conversion.method import Method
from ivx.conversion.steps import latent_definition
from ivx.models.definition import ModelDefinition, Params
from ivx.models.rope import Rope
from ivx.parallel import batches, compiler, sharding

OpenBatches = Callable[[int], Iterable[Batch]]


def refine(
    definition: ModelDefinition,
    params: Params,
    open_batches: OpenBatches,
    mesh: Mesh,
    method: Method,
    kind: str,
    ranks: tuple[int, ...],
) -> convert.Converted:
    """Converts a model layer by layer.

    Args:
      definition: the model with grouped attention; its kv_rank is R.
      params: its parameters.
      open_batches: returns the calibration batches from a given index on.
      mesh: devices over which packs are sharded.
      method: options, with `sequential`, `fit_output` or both.
      kind: target attention.
      ranks: latent rank of each layer, from the single-pass conversion.

    Raises:
      UserError: as `convert.convert`.
    """
    target = latent_definition(definition, definition.spec.text.kv_rank, kind)
    shapes = target.abstract_params["language_model"]["layers"]["self_attn"]
    attention = jax.tree.map(lambda a: np.zeros(a.shape, np.float32), shapes)
    source = params["language_model"]["layers"]["self_attn"]
    attention["o_proj"]["kernel"][...] = np.asarray(source["o_proj"]["kernel"])
    passes = _Passes(definition, target, params, open_batches, mesh, method.sequential)
    report = []
    depth = definition.spec.text.depth
    for index in progress.track(range(depth), depth, "converting layers", "layers"):
        sums, tokens = passes.run(attention, index, index, "statistics")
        stacked = {name: a[None] for name, a in sums.items()}
        kernels, layer_report = layer.convert(
            layer.parameters(params, index),
            layer.Sums(statistics.Statistics(**stacked, tokens=tokens), 0),
            method,
            kind,
            ranks[index],
            target.spec.text.kv_rank,
        )
        convert.write_layer(attention, kernels, index)
        if method.fit_output:
            sums, _ = passes.run(attention, index, index, "output")
            kernel = np.asarray(source["o_proj"]["kernel"][index], np.float64)
            attention["o_proj"]["kernel"][index] = output_projection.solve(
                kernel, sums, method.ridge
            )
        report.append(layer_report)
    return convert.with_attention(params, attention, report)


class _Passes:
    """Passes over the calibration batches with some layers converted."""

    def __init__(
        self,
        definition: ModelDefinition,
        target: ModelDefinition,
        params: Params,
        open_batches: OpenBatches,
        mesh: Mesh,
        use_converted: bool,
    ) -> None:
        self._params, self._open_batches, self._mesh = params, open_batches, mesh
        self._depth, self._use_converted = definition.spec.text.depth, use_converted

        def sums(
            params: Params, attention: Params, flags_l2: Array, batch: Batch, kind: str
        ) -> dict[str, Array]:
            double = jax.tree.map(lambda a: jnp.concatenate([a, a]), batch)
            model = definition.bind(params)
            converted = params | {
                "language_model": _with_attention(params["language_model"], attention)
            }
            layers = model.language_model.layers
            new = target.bind(converted).language_model.layers.self_attn
            layers.self_attn = _TwinAttention(layers.self_attn, new, flags_l2, kind)
            # Only the measured layer contributes; all others return zeros.
            return jax.tree.map(lambda a: a.sum(0), model(double, keep_cache=True).cache)

        self._sums = {
            kind: jax.jit(
                sharding.under_mesh(mesh, functools.partial(sums, kind=kind)),
                out_shardings=sharding.replicated(mesh),
                compiler_options=compiler.inference_options(mesh, "bfloat16"),
            )
            for kind in ("statistics", "output")
        }

    def run(
        self, attention: Params, converted: int, index: int, kind: str
    ) -> tuple[dict[str, np.ndarray], int]:
        """The sums of one layer, float64, and the token count.

        Args:
          attention: stacked parameters of the converted attention.
          converted: number of layers that are converted, from the first.
          index: of the layer to measure.
          kind: `statistics`, or `output` for the sums of `output_projection`.
        """
        layers = np.arange(self._depth)
        flags_l2 = np.stack([(layers < converted) & self._use_converted, layers == index], 1)
        totals, tokens = {}, 0
        for batch in self._open_batches(0):
            placed = batches.put_batch(batch, self._mesh)
            sums = self._sums[kind](self._params, attention, flags_l2, placed)
            for name, values in sums.items():
                totals[name] = totals.get(name, 0) + np.asarray(values, np.float64)
            tokens += int((batch.segments > 0).sum())
        return totals, tokens


def _with_attention(decoder: Params, attention: Params) -> Params:
    return decoder | {"layers": decoder["layers"] | {"self_attn": attention}}


class _TwinAttention(nnx.Module):
    """Both attentions of a layer, one per stream; returns the sums of one layer as its cache."""

    def __init__(self, old: nnx.Module, new: nnx.Module, flags_l2: Array, kind: str) -> None:
        self.old, self.new, self.kind = old, new, kind
        self.flags = nnx.Param(flags_l2)

    def __call__(
        self, x_btd: Array, rope: Rope, segments_bt: Array
    ) -> tuple[Array, dict[str, Array]]:
        source_btd, input_btd = jnp.split(x_btd, 2)
        rope = Rope(*(jnp.split(table, 2)[0] for table in rope))
        segments_bt = jnp.split(segments_bt, 2)[0]
        is_converted, is_measured = self.flags[...]
        target_btd = self.old(source_btd, rope, segments_bt)[0]
        output_btd = jax.lax.cond(
            is_converted,
            lambda: self.new(input_btd, rope, segments_bt)[0],
            lambda: self.old(input_btd, rope, segments_bt)[0],
        )

        def measure() -> dict[str, Array]:
            if self.kind == "output":
                return output_projection.sums(self.new, input_btd, target_btd, rope, segments_bt)
            return statistics.sums(self.old, source_btd, rope, segments_bt, input_btd)

        shapes = jax.eval_shape(measure)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        cache = jax.lax.cond(is_measured, measure, lambda: zeros)
        return jnp.concatenate([target_btd, output_btd]), cache
