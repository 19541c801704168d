"""What the training loop knows of a stage: where batches come from, the loss, and what trains."""

from typing import NamedTuple, Protocol

from jax.sharding import Mesh
from jaxtyping import Array, Float

from data_pipelines.batch import Batch
from data_pipelines.loader import Loaded
from ivx.models.definition import Params
from ivx.models.model import VideoLanguageModel


class Loss(NamedTuple):
    """A loss as a quotient, to be summed over hosts, shards and micro-batches before the division.

    Attributes:
      total: numerator, float32.
      weight: denominator, float32, free of parameters.
      sums: further sums to report as they are.
      means: further quotients to report, each (numerator, denominator).
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]
    sums: dict[str, Float[Array, ""]]
    means: dict[str, tuple[Float[Array, ""], Float[Array, ""]]]


class Producer(Protocol):
    """A source of batches that may look at the current parameters (to roll out, say)."""

    def next(self, params: Params) -> Loaded:
        """This host's share of the next batch.

        Raises:
          StopIteration: there is none.
        """


class Stage(Protocol):
    """One stage of the recipe."""

    def producer(self, start: int) -> Producer:
        """Opens the batches from number `start` on."""

    def validation(self) -> list[Batch]:
        """Batches on which the loss is watched; always the same."""

    def frozen(self, mesh: Mesh) -> Params:
        """Parameters that the loss reads and nothing trains, those of a teacher say; often none."""

    def loss(self, model: VideoLanguageModel, batch: Batch, frozen: Params) -> Loss:
        """The loss of one batch."""

    def trains(self, path: tuple[str, ...]) -> bool:
        """Whether the parameter at `path` trains."""
