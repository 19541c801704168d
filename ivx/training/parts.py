"""Parts of the parameters by their paths: which train, and how fast.

A path is dotted, `language_model.layers.self_attn.q_proj.kernel`; a pattern is that of a shell,
`visual.*` or `*.bias`. Layers are stacked, so that a pattern takes a parameter of all layers.
"""

import dataclasses
import fnmatch

import jax
import optax

from ivx.errors import UserError
from ivx.models.definition import Params


@dataclasses.dataclass(frozen=True)
class Parts:
    """What trains, and at which share of the learning rate.

    Attributes:
      train: patterns of what trains; all if there are none.
      freeze: patterns of what does not, whatever `train` says.
      rates: pattern -> factor of the learning rate; the first that matches counts.
    """

    train: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    rates: tuple[tuple[str, float], ...] = ()

    def trains(self, path: str) -> bool:
        """Whether the parameter trains."""
        return (not self.train or _any(path, self.train)) and not _any(path, self.freeze)

    def rate(self, path: str) -> float:
        """Its factor of the learning rate."""
        return next((factor for pattern, factor in self.rates if _any(path, (pattern,))), 1.0)

    def check(self, params: Params) -> None:
        """Refuses patterns that take nothing, and a choice that leaves nothing to train.

        Raises:
          UserError: names the pattern and the parts there are.
        """
        paths = [dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for pattern in (*self.train, *self.freeze, *(pattern for pattern, _ in self.rates)):
            if not any(_any(path, (pattern,)) for path in paths):
                tops = sorted({".".join(path.split(".")[:2]) + ".*" for path in paths})
                raise UserError(
                    f"no parameter is called {pattern!r}; there are {', '.join(tops)},"
                    " and `ivx doctor` lists all"
                )
        if not any(self.trains(path) for path in paths):
            raise UserError(
                f"optim.train = {self.train} and optim.freeze = {self.freeze} leave nothing to"
                " train; take a pattern away"
            )

    def mask(self, params: Params) -> Params:
        """True or False for each parameter."""
        return jax.tree_util.tree_map_with_path(lambda path, _: self.trains(dotted(path)), params)

    def limit(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """The optimizer without moments for what is frozen, and with the rates of the parts.

        Updates of frozen parameters are to be left out by the caller.
        """
        if self.train or self.freeze:
            optimizer = optax.masked(optimizer, self.mask)
        return optax.chain(optimizer, self._scale()) if self.rates else optimizer

    def _scale(self) -> optax.GradientTransformation:
        def update(updates, state, params=None):
            del params
            scaled = jax.tree_util.tree_map_with_path(
                lambda path, update: update * self.rate(dotted(path)), updates
            )
            return scaled, state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


# Everything, at the learning rate itself.
ALL = Parts()


def dotted(path: tuple) -> str:
    """A path of JAX as patterns know it."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _any(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
