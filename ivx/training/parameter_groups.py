"""Groups of parameters, selected by path: which train, and at which learning rate.

A path is dotted, `language_model.layers.self_attn.q_proj.kernel`. A pattern is a shell glob,
`visual.*` or `*.bias`. Layers are stacked, so a pattern selects a parameter of all layers.
"""

import dataclasses
import fnmatch

import jax
import optax

from ivx.errors import UserError
from ivx.models.definition import Params


@dataclasses.dataclass(frozen=True)
class ParameterGroups:
    """Which parameters train, and their learning-rate factors.

    Attributes:
      train: patterns of trained parameters; empty trains all.
      freeze: patterns of frozen parameters; takes precedence over `train`.
      rates: (pattern, factor of the learning rate); the first match applies.
    """

    train: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    rates: tuple[tuple[str, float], ...] = ()

    def trains(self, path: str) -> bool:
        """Whether the parameter trains."""
        return (not self.train or _matches(path, self.train)) and not _matches(path, self.freeze)

    def rate(self, path: str) -> float:
        """The learning-rate factor of the parameter."""
        return next((factor for pattern, factor in self.rates if _matches(path, (pattern,))), 1.0)

    def check(self, params: Params) -> None:
        """Checks that every pattern matches a parameter, and that some parameter trains.

        Raises:
          UserError: names the pattern and the groups that exist.
        """
        paths = [dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for pattern in (*self.train, *self.freeze, *(pattern for pattern, _ in self.rates)):
            if not any(_matches(path, (pattern,)) for path in paths):
                groups = sorted({".".join(path.split(".")[:2]) + ".*" for path in paths})
                raise UserError(
                    f"no parameter matches {pattern!r}; there are {', '.join(groups)},"
                    " and `ivx doctor` lists all"
                )
        if not any(self.trains(path) for path in paths):
            raise UserError(
                f"optim.trainable = {self.train} and optim.freeze = {self.freeze} leave nothing to"
                " train; remove a pattern"
            )

    def mask(self, params: Params) -> Params:
        """True for each trained parameter, False for each frozen one."""
        return jax.tree_util.tree_map_with_path(lambda path, _: self.trains(dotted(path)), params)

    def limit(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """The optimizer without moments of frozen parameters, and with the groups' rates.

        The caller drops the updates of frozen parameters.
        """
        if self.train or self.freeze:
            optimizer = optax.masked(optimizer, self.mask)
        return optax.chain(optimizer, self._scale()) if self.rates else optimizer

    def _scale(self) -> optax.GradientTransformation:
        def update(
            updates: optax.Updates, state: optax.OptState, params: Params | None = None
        ) -> tuple[optax.Updates, optax.OptState]:
            del params
            scaled = jax.tree_util.tree_map_with_path(
                lambda path, update: update * self.rate(dotted(path)), updates
            )
            return scaled, state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


# All parameters train at the learning rate of the schedule.
ALL = ParameterGroups()


def dotted(path: tuple) -> str:
    """A JAX key path in dotted form."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
