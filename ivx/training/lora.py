"""LoRA (arXiv 2106.09685): a frozen kernel plus a trained product of two thin matrices.

    W = W_0 + (alpha / rank) A B      W_0 [L, n, m] frozen;  A [L, n, rank] random, B [L, rank, m] 0

W is formed once per step, where the parameters are bound to the model, so the model itself needs no
change. Optimizer state shrinks to that of A and B; the gradient of W itself is still computed.
Loading a run returns W: exports, evaluation and the next stage see an ordinary model.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from ivx.errors import UserError
from ivx.models.definition import ModelDefinition, Params
from ivx.parallel.sharding import AXES
from ivx.training.parameter_groups import ParameterGroups, dotted

# A and B are stored as lora.<path of the kernel>.{a,b}.
KEY = "lora"


@dataclasses.dataclass(frozen=True)
class LoraSpec:
    """Hyperparameters of LoRA.

    Attributes:
      rank: of the product A B.
      alpha: the product is scaled by alpha / rank.
      targets: patterns of the paths of the adapted kernels.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]


class LoraDefinition(ModelDefinition):
    """A model with LoRA matrices among its parameters.

    Raises:
      UserError: no kernel matches, or a matching kernel is smaller than the rank.
    """

    def __init__(self, base: ModelDefinition, lora: LoraSpec) -> None:
        self.base, self.lora = base, lora
        self.spec = getattr(base, "spec", None)
        targets = ParameterGroups(train=lora.targets)
        targets.check(base.abstract_params)
        matrices = {}
        for path, variable in nnx.to_flat_state(base.abstract):
            name = ".".join(path)
            if path[-1] == "kernel" and targets.trains(name):
                matrices |= self._matrices(name, variable)
        if not matrices:
            raise UserError(
                f"LoRA adapts kernels, but {lora.targets} matches no kernel; add '*kernel'"
            )
        self.abstract = nnx.merge_state(base.abstract, nnx.from_flat_state(matrices))

    def init(self, seed: int) -> Params:
        """New parameters of the base model, and of A and B."""
        return self.extend(self.base.init(seed), seed)

    def extend(self, params: Params, seed: int) -> Params:
        """Parameters of the base model with new A and B, whose product is still 0."""
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
        """Parameters of the base model, with W in place of W_0."""
        base_params = {name: part for name, part in params.items() if name != KEY}
        scale = self.lora.alpha / self.lora.rank

        def add(path: tuple, leaf: Array) -> Array:
            pair = params[KEY].get(dotted(path))
            if pair is None:
                return leaf
            return leaf + scale * jnp.einsum("...nr,...rm->...nm", pair["a"], pair["b"])

        return jax.tree_util.tree_map_with_path(add, base_params)

    def absorb(self, params: Params) -> Params:
        """As `merge`, but changes `params`, kernel by kernel, so that no second copy is held."""
        scale = self.lora.alpha / self.lora.rank

        def add(kernel: Array, a: Array, b: Array) -> Array:
            return kernel + scale * jnp.einsum("...nr,...rm->...nm", a, b)

        add = jax.jit(add, donate_argnums=0)
        for name, pair in params.pop(KEY).items():
            *parents, last = name.split(".")
            part = functools.reduce(dict.__getitem__, parents, params)
            part[last] = add(part[last], pair["a"], pair["b"])
        return params

    def bind(self, params: Params) -> nnx.Module:
        """The base model with W; parameters without A and B are bound as they are."""
        return self.base.bind(self.merge(params) if KEY in params else params)

    def _matrices(self, name: str, kernel: nnx.Variable) -> dict[tuple[str, ...], nnx.Param]:
        """Abstract A and B of one kernel."""
        shape, rank = kernel.get_value().shape, self.lora.rank
        if rank > min(shape[-2:]):
            raise UserError(
                f"optim.lora_rank = {rank} exceeds the smaller side of {name} {shape};"
                f" set it to {min(shape[-2:])} or less"
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
