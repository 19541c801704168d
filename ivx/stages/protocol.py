"""What the training loop knows of a stage: where batches come from, the loss, and what trains."""

from typing import NamedTuple, Protocol

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
      sums: further sums to report. `tokens/trained` must be among them; a name that ends in `_sum`
        is divided by it and reported without the ending.
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]
    sums: dict[str, Float[Array, ""]]


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

    def loss(self, model: VideoLanguageModel, batch: Batch) -> Loss:
        """The loss of one batch."""

    def trains(self, path: tuple[str, ...]) -> bool:
        """Whether the parameter at `path` trains."""
