"""The interface between the training loop and a stage: its batches, loss and trained parameters."""

from typing import NamedTuple, Protocol, runtime_checkable

from jax.sharding import Mesh
from jaxtyping import Array, Float

from data_pipelines.loader import LoadedBatch
from ivx.models.definition import Params
from ivx.models.model import VideoLanguageModel


@runtime_checkable
class StageBatch(Protocol):
    """A global batch: a tree of arrays [B, ...], a `Batch` or a dataclass that contains one.

    Attributes:
      segments: int [B, T], 0 at padding.
    """

    segments: Array


class Loss(NamedTuple):
    """A loss as a quotient, summed over hosts, shards and micro-batches before the division.

    Attributes:
      total: numerator, float32.
      weight: denominator, float32, independent of the parameters.
      sums: metrics that are sums.
      means: metrics that are quotients, each (numerator, denominator).
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]
    sums: dict[str, Float[Array, ""]]
    means: dict[str, tuple[Float[Array, ""], Float[Array, ""]]]


@runtime_checkable
class Producer(Protocol):
    """A source of batches, which may use the current parameters, for rollouts say."""

    def next(self, params: Params) -> LoadedBatch:
        """This host's share of the next batch.

        Raises:
          StopIteration: there are no more batches.
        """


@runtime_checkable
class Stage(Protocol):
    """One stage of the recipe."""

    def producer(self, start: int) -> Producer:
        """The batches from number `start` on."""

    def validation(self) -> list[StageBatch]:
        """The validation batches; the same on every call."""

    def frozen(self, mesh: Mesh) -> Params:
        """Parameters that the loss uses but nothing trains, such as a teacher's; often empty."""

    def loss(self, model: VideoLanguageModel, batch: StageBatch, frozen: Params) -> Loss:
        """The loss of one batch."""

    def trains(self, path: tuple[str, ...]) -> bool:
        """Whether the parameter at `path` trains."""
