"""LoRA (arXiv 2106.09685): a kernel trains by what is added to it, a product of two thin matrices.

    W = W_0 + (alpha / rank) A B      W_0 [L, n, m] frozen;  A [L, n, rank] random, B [L, rank, m] 0

The sum is made once a step, where the parameters are bound to the model, so that the model knows
nothing of it: optimizer state shrinks to that of A and B, the gradient of W itself is still made.
Reading a run back gives W: exports, evaluation and the next stage see an ordinary model.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from ivx.errors import UserError
from ivx.models.definition import ModelDefinition, Params
from ivx.parallel.rules import AXES
from ivx.training.parts import Parts, dotted

# Where A and B are among the parameters: lora.<path of the kernel>.{a,b}.
KEY = "lora"


@dataclasses.dataclass(frozen=True)
class LoraSpec:
    """Which kernels, and how thin.

    Attributes:
      rank: of what is added.
      alpha: over rank, its weight.
      targets: patterns of the kernels by their paths.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]


class LoraDefinition(ModelDefinition):
    """A model whose parameters are its own and those of LoRA.

    Raises:
      UserError: no kernel is taken, or one that is thinner than the rank.
    """

    def __init__(self, base: ModelDefinition, lora: LoraSpec):
        self.base, self.lora = base, lora
        self.spec = getattr(base, "spec", None)
        parts = Parts(train=lora.targets)
        parts.check(base.abstract_params)
        added = {}
        for path, variable in nnx.to_flat_state(base.abstract):
            name = ".".join(path)
            if path[-1] == "kernel" and parts.trains(name):
                added |= self._added(name, variable)
        if not added:
            raise UserError(f"LoRA takes kernels, and {lora.targets} takes none; add '*kernel'")
        self.abstract = nnx.merge_state(base.abstract, nnx.from_flat_state(added))

    def init(self, seed: int) -> Params:
        """The model's own new parameters, and A and B."""
        return self.extend(self.base.init(seed), seed)

    def extend(self, params: Params, seed: int) -> Params:
        """Parameters of the model with new A and B, which change nothing yet."""
        shapes = self.abstract_params[KEY]
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), len(shapes))
        return params | {
            KEY: {
                name: {
                    "a": jax.random.normal(key, pair["a"].shape) * pair["a"].shape[-2] ** -0.5,
                    "b": jnp.zeros(pair["b"].shape),
                }
                for key, (name, pair) in zip(keys, sorted(shapes.items()), strict=True)
            }
        }

    def merge(self, params: Params) -> Params:
        """Parameters of the model alone, W in the place of W_0."""
        own = {name: part for name, part in params.items() if name != KEY}
        scale = self.lora.alpha / self.lora.rank

        def add(path, leaf: Array) -> Array:
            pair = params[KEY].get(dotted(path))
            if pair is None:
                return leaf
            return leaf + scale * jnp.einsum("...nr,...rm->...nm", pair["a"], pair["b"])

        return jax.tree_util.tree_map_with_path(add, own)

    def bind(self, params: Params):
        """The model with W; as that of the model itself where there are no A and B."""
        return self.base.bind(self.merge(params) if KEY in params else params)

    def _added(self, name: str, kernel: nnx.Variable) -> dict:
        shape, rank = kernel.get_value().shape, self.lora.rank
        if rank > min(shape[-2:]):
            raise UserError(
                f"optim.lora_rank = {rank} is more than {name} {shape} has; take {min(shape[-2:])}"
                " or less"
            )
        axes = kernel.get_metadata().get(AXES, (None, None))
        sides = {
            "a": ((*shape[:-1], rank), (axes[0], None)),
            "b": ((*shape[:-2], rank, shape[-1]), (None, axes[1])),
        }
        return {
            (KEY, name, side): nnx.Param(jax.ShapeDtypeStruct(size, jnp.float32), **{AXES: logical})
            for side, (size, logical) in sides.items()
        }
