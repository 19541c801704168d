"""Layer by layer: each is fitted to what the converted layers below it really give it.

One pass at a time runs two streams side by side, as one batch of twice the packs:

    source    x  through the model as it was
    own       x' through the layers that are converted, then through those that are not yet

Layer l is solved from sums over what it will be fed, x'_l, with what the source makes of x_l for
targets: queries, keys and values of the source from the inputs of the converted model. So a layer
takes back some of what those below it lost. With `polish` a second pass fits o_proj to the source's
attention, see `ivx.conversion.polish`. A conversion makes one or two passes a layer this way,
where one pass is enough for all otherwise.
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
from ivx.conversion import convert, one_layer, polish, statistics
from ivx.conversion.method import Method
from ivx.conversion.steps import latent_definition
from ivx.models.definition import ModelDefinition, Params
from ivx.models.rope import Rope
from ivx.parallel import ambient, rules

OpenBatches = Callable[[int], Iterable[Batch]]


def refine(
    definition: ModelDefinition,
    params: Params,
    open_batches: OpenBatches,
    mesh: Mesh,
    method: Method,
    kind: str,
    ranks: tuple[int, ...],
    say: Callable[[str], None] = lambda sentence: None,
) -> convert.Converted:
    """Converts a model layer by layer.

    Args:
      definition: of the model with grouped attention; its kv_rank is R.
      params: its parameters.
      open_batches: from a number to the calibration batches from there on.
      mesh: devices over which packs are spread.
      method: how; with `sequential`, `polish` or both.
      kind: attention to convert to.
      ranks: of the layers, from the conversion by a single pass.
      say: told after each layer.

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
    for number in range(definition.spec.text.depth):
        sums, tokens = passes.run(attention, number, number, "statistics")
        one = statistics.Statistics(**{name: a[None] for name, a in sums.items()}, tokens=tokens)
        kernels, row = one_layer.convert(
            one_layer.parameters(params, number),
            one_layer.Sums(one, 0),
            method,
            kind,
            ranks[number],
            target.spec.text.kv_rank,
        )
        convert.put(attention, kernels, number)
        if method.polish:
            sums, _ = passes.run(attention, number, number, "polish")
            kernel = np.asarray(source["o_proj"]["kernel"][number], np.float64)
            attention["o_proj"]["kernel"][number] = polish.solve(kernel, sums, method.ridge)
        report.append(row)
        say(f"layer {number} is converted")
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
        follow: bool,
    ):
        self._params, self._open, self._mesh = params, open_batches, mesh
        self._depth, self._follow = definition.spec.text.depth, follow

        def sums(params, attention, flags_l2, batch: Batch, what: str) -> dict[str, Array]:
            double = jax.tree.map(lambda a: jnp.concatenate([a, a]), batch)
            model = definition.bind(params)
            rest = params | {"language_model": _with(params["language_model"], attention)}
            layers = model.language_model.layers
            new = target.bind(rest).language_model.layers.self_attn
            layers.self_attn = _Twin(layers.self_attn, new, flags_l2, what)
            # All layers but one give zeros.
            return jax.tree.map(lambda a: a.sum(0), model(double, keep_cache=True).cache)

        self._sums = {
            what: jax.jit(
                ambient.under(mesh, functools.partial(sums, what=what)),
                out_shardings=rules.replicated(mesh),
            )
            for what in ("statistics", "polish")
        }

    def run(
        self, attention: Params, converted: int, number: int, what: str
    ) -> tuple[dict[str, np.ndarray], int]:
        """Sums of layer `number`, float64, with that many layers converted; and the tokens."""
        layers = np.arange(self._depth)
        flags_l2 = np.stack([(layers < converted) & self._follow, layers == number], 1)
        total, tokens = {}, 0
        for batch in self._open(0):
            placed = rules.put_batch(batch, self._mesh)
            found = self._sums[what](self._params, attention, flags_l2, placed)
            for name, values in found.items():
                total[name] = total.get(name, 0) + np.asarray(values, np.float64)
            tokens += int((batch.segments > 0).sum())
        return total, tokens


def _with(decoder: Params, attention: Params) -> Params:
    return decoder | {"layers": decoder["layers"] | {"self_attn": attention}}


class _Twin(nnx.Module):
    """Both attentions of a layer, on both streams; keeps sums of one layer instead of a cache."""

    def __init__(self, old: nnx.Module, new: nnx.Module, flags_l2: Array, what: str):
        self.old, self.new, self.what = old, new, what
        self.flags = nnx.Param(flags_l2)

    def __call__(
        self, x_btd: Array, rope: Rope, segments_bt: Array
    ) -> tuple[Array, dict[str, Array]]:
        source_btd, own_btd = jnp.split(x_btd, 2)
        rope = Rope(*(jnp.split(table, 2)[0] for table in rope))
        segments_bt = jnp.split(segments_bt, 2)[0]
        converted, now = self.flags[...]
        wanted_btd = self.old(source_btd, rope, segments_bt)[0]
        found_btd = jax.lax.cond(
            converted,
            lambda: self.new(own_btd, rope, segments_bt)[0],
            lambda: self.old(own_btd, rope, segments_bt)[0],
        )

        def measure() -> dict[str, Array]:
            if self.what == "polish":
                return polish.sums(self.new, own_btd, wanted_btd, rope, segments_bt)
            return statistics.sums(self.old, source_btd, rope, segments_bt, own_btd)

        shapes = jax.eval_shape(measure)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        kept = jax.lax.cond(now, measure, lambda: zeros)
        return jnp.concatenate([wanted_btd, found_btd]), kept
