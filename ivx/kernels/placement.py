"""How the tokens and the output heads of the loss ops are sharded over the ambient mesh."""

import dataclasses
from collections.abc import Callable

import jax
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array

from ivx.parallel import sharding
from ivx.parallel.sharding import BATCH


@dataclasses.dataclass(frozen=True)
class Placement:
    """How hidden states and heads are sharded over the ambient mesh.

    Attributes:
      mesh: None on a single device.
      tokens: mesh axes of each leading axis of the tokens.
      vocab: mesh axis that shards the vocabulary, or None.
    """

    mesh: AbstractMesh | None
    tokens: tuple[tuple[str, ...], ...]
    vocab: str | None

    @classmethod
    def from_mesh(cls, leading: tuple[int, ...], vocab: int) -> "Placement":
        """Packs over replica and fsdp, tokens over context, vocabulary over tensor."""
        mesh = sharding.current_mesh()
        if mesh is None:
            return cls(None, ((),) * len(leading), None)
        preferred = (BATCH, ("context",), *(() for _ in leading[2:]))
        tokens = tuple(
            sharding.axes_dividing(size, axes, mesh)
            for size, axes in zip(leading, preferred, strict=False)
        )
        return cls(mesh, tokens, *(sharding.axes_dividing(vocab, ("tensor",), mesh) or (None,)))

    @property
    def token_axes(self) -> tuple[str, ...]:
        """All mesh axes that shard tokens."""
        return sum(self.tokens, ())

    def gather_axis(self, head: Array) -> str | None:
        """The mesh axis that shards the rows of a head, or None."""
        if self.mesh is None:
            return None
        return (*sharding.axes_dividing(head.shape[0], ("fsdp",), self.mesh), None)[0]

    def map(
        self, function: Callable, arguments: str, results: str, *arrays: Array | None
    ) -> tuple[Array, ...]:
        """Runs `function` on each device's shards of `arrays`.

        Args:
          function: takes the arrays and returns a tuple.
          arguments: one letter per array: t for a scalar per token, d for hidden states, h for a
            head. An array may be None.
          results: the same for the returned tuple. A head is the gradient of the first head among
            the arguments.
          *arrays: the arguments.
        """
        if self.mesh is None:
            return function(*arrays)
        heads = [a for a, kind in zip(arrays, arguments, strict=True) if kind == "h"]

        def spec(kind: str, head: Array | None) -> PartitionSpec:
            if kind == "h":
                return PartitionSpec(self.gather_axis(head), self.vocab)
            return PartitionSpec(*(axes or None for axes in self.tokens))

        ins = tuple(spec(kind, a) for kind, a in zip(arguments, arrays, strict=True))
        outs = tuple(spec(kind, heads[0]) for kind in results)
        mapped = jax.shard_map(
            function, mesh=self.mesh, in_specs=ins, out_specs=outs, check_vma=False
        )
        return mapped(*arrays)

    def sum_over_vocabulary(self, array: Array) -> Array:
        """The sum over vocabulary shards."""
        return jax.lax.psum(array, self.vocab) if self.vocab else array

    def sum_over_tokens(self, array: Array, gather: str | None) -> Array:
        """Sums a chunk of a head's gradient [D, v] over all tokens; returns this device's rows."""
        others = tuple(axis for axis in self.token_axes if axis != gather)
        array = jax.lax.psum(array, others) if others else array
        if gather is None:
            return array
        if gather in self.token_axes:
            return jax.lax.psum_scatter(array, gather, tiled=True)
        rows = array.shape[0] // self.mesh.shape[gather]
        return jax.lax.dynamic_slice_in_dim(array, jax.lax.axis_index(gather) * rows, rows)

    def max_over_vocabulary(self, array: Array) -> Array:
        """The maximum over vocabulary shards."""
        return jax.lax.pmax(array, self.vocab) if self.vocab else array
