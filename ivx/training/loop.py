"""THE training loop. It runs any stage and knows none by name.

The order within a step is law, since resuming relies on it:

    validate (old parameters) -> save -> next batch -> step -> write

A state saved at step i has used batches 0 .. i - 1; a resumed run asks for batch i next, and
nothing else is carried over, so that it goes on bit for bit as if it had never stopped.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable

import jax
import optax
from jax.sharding import Mesh

from data_pipelines.loader import Loaded
from ivx.models.definition import ModelDefinition, Params
from ivx.parallel import rules
from ivx.stages.protocol import Stage
from ivx.training import progress
from ivx.training.checkpoint import Checkpoints
from ivx.training.state import TrainState, init_state, make_step, make_validation_loss
from ivx.training.writers import METRICS, make_writer, read_metrics


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """How long a run is and how often it looks up; all in steps."""

    steps: int
    seed: int
    accumulation: int
    log_every: int
    validate_every: int
    save_every: int
    keep: int


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a finished run reports."""

    steps: int
    loss: float
    validation_loss: float | None
    skipped_steps: int
    skipped_samples: int
    tokens: int
    tokens_per_second: float
    parameters: int


def train(
    workdir: pathlib.Path,
    config: str,
    definition: ModelDefinition,
    stage: Stage,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    spec: RunSpec,
    start: Callable[[Params], Params] | None = None,
) -> RunResult:
    """Trains until `spec.steps`, from the newest checkpoint of `workdir` if there is one.

    Args:
      workdir: where checkpoints and metrics go.
      config: text of the config, stored with each checkpoint.
      definition: the model.
      stage: batches, loss and what trains.
      optimizer: of optax.
      mesh: devices.
      spec: length and intervals.
      start: from shardings to the first parameters; None initialises new ones from the seed.
    """
    # ------------------------------------------------------------------------------------ state
    state_shardings = _state_shardings(definition, optimizer, mesh)
    checkpoints = Checkpoints(workdir, spec.keep, config)
    if checkpoints.latest() is None:
        params = start(state_shardings.params) if start else None
        state = jax.jit(
            lambda given: init_state(given or definition.init(spec.seed), optimizer),
            out_shardings=state_shardings,
        )(params)
        done = 0
    else:
        restored = checkpoints.restore(_abstract_state(definition, optimizer, state_shardings))
        state, done = restored.state, restored.next_batch
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    progress.note(
        f"model of {parameters:,} parameters on {mesh.size} devices, at step {done} of {spec.steps}"
    )

    # ------------------------------------------------------------------------------------ functions
    whole = rules.replicated(mesh)
    step = jax.jit(
        make_step(definition, stage, optimizer, spec.accumulation, mesh),
        donate_argnums=0,
        out_shardings=(state_shardings, whole),
    )
    validation_loss = jax.jit(make_validation_loss(definition, stage, mesh), out_shardings=whole)
    validation = [rules.put_batch(batch, mesh) for batch in stage.validation()]
    frozen = stage.frozen(mesh)

    # ------------------------------------------------------------------------------------ loop
    writer = make_writer(workdir, done)
    producer = stage.producer(done) if done < spec.steps else None
    bar = progress.TrainingBar(spec.steps, done)
    # What a resumed run had seen stands in the last row before its checkpoint.
    meter = _Meter(int(_last_numbers(workdir).get("tokens/seen", 0)))
    for number in range(done, spec.steps):
        # A resumed run has validated and saved its first state already.
        if number != done and number % spec.validate_every == 0:
            _validate(validation_loss, state, frozen, validation, writer, number)
        if number != done and number % spec.save_every == 0:
            writer.write_scalars(number, {"tokens/seen": meter.seen})
            writer.flush()
            checkpoints.save(state, number)
        loaded = meter.wait_for(producer, state.params)
        state, metrics = step(state, frozen, rules.put_batch(loaded.batch, mesh))
        meter.count(loaded)
        bar.advance()
        if (number + 1) % spec.log_every == 0 or number + 1 == spec.steps:
            numbers = {name: float(value) for name, value in metrics.items()} | meter.read()
            writer.write_scalars(number + 1, numbers)
            writer.flush()
            bar.show(numbers["loss/total"], numbers["tokens/sec"], numbers["data/wait_ms"])

    # ------------------------------------------------------------------------------------ end
    if done < spec.steps:
        _validate(validation_loss, state, frozen, validation, writer, spec.steps)
        writer.flush()
        checkpoints.save(state, spec.steps)
    bar.close()
    writer.close()
    checkpoints.close()
    recorded = _last_numbers(workdir)
    return RunResult(
        steps=spec.steps,
        loss=recorded["loss/total"],
        validation_loss=recorded.get("validation/loss"),
        skipped_steps=int(state.skipped),
        skipped_samples=meter.skipped,
        tokens=int(recorded["tokens/seen"]),
        tokens_per_second=meter.mean_speed(),
        parameters=parameters,
    )


class _Meter:
    """Counts tokens, waiting and skipped samples; `seen` are the tokens of all starts of a run."""

    def __init__(self, seen: int):
        self.skipped, self.seen = 0, seen
        self._tokens_in_all, self._seconds_in_all = 0, 0.0
        self._reset()

    def wait_for(self, producer, params) -> Loaded:
        """The next batch; the time spent waiting for it is data wait."""
        start = time.monotonic()
        loaded = producer.next(params)
        self._wait += time.monotonic() - start
        return loaded

    def count(self, loaded: Loaded) -> None:
        self._steps += 1
        for name, value in loaded.numbers.items():
            self._numbers.setdefault(name, []).append(value)
        tokens = int((loaded.batch.segments > 0).sum())
        self._tokens += tokens
        self.seen += tokens
        self.skipped += len(loaded.skipped)
        for sentence in loaded.skipped:
            progress.note(f"skipped {sentence}")

    def read(self) -> dict[str, float]:
        """Numbers of the steps since the last reading."""
        seconds = time.monotonic() - self._since
        numbers = {
            "tokens/seen": self.seen,
            "tokens/sec": self._tokens / seconds,
            "step/ms": 1e3 * seconds / self._steps,
            "data/wait_ms": 1e3 * self._wait / self._steps,
            "data/skipped_samples": self.skipped,
        } | {name: sum(values) / len(values) for name, values in self._numbers.items()}
        self._tokens_in_all += self._tokens
        self._seconds_in_all += seconds
        self._reset()
        return numbers

    def mean_speed(self) -> float:
        """Tokens a second over the whole run, validation and compilation counted in."""
        return self._tokens_in_all / self._seconds_in_all if self._seconds_in_all else 0.0

    def _reset(self) -> None:
        self._since, self._steps, self._tokens, self._wait = time.monotonic(), 0, 0, 0.0
        self._numbers: dict[str, list[float]] = {}


def _validate(
    validation_loss, state: TrainState, frozen: Params, batches, writer, step: int
) -> None:
    """Writes the loss over all validation batches as one quotient; without batches, nothing."""
    losses = [validation_loss(state.params, frozen, batch) for batch in batches]
    if losses:
        loss = sum(loss.total for loss in losses) / sum(loss.weight for loss in losses)
        writer.write_scalars(step, {"validation/loss": float(loss)})


def _last_numbers(workdir: pathlib.Path) -> dict[str, float]:
    """The newest value of every metric, those of an earlier start of the run among them."""
    newest = {}
    for row in read_metrics(workdir / METRICS):
        newest |= row
    return newest


def _state_shardings(definition: ModelDefinition, optimizer, mesh: Mesh) -> TrainState:
    """Parameters by the rules, optimizer moments like them, counters on every device."""
    params = rules.parameter_shardings(definition.abstract, mesh)
    whole = rules.replicated(mesh)
    abstract = jax.eval_shape(optimizer.init, definition.abstract_params)
    moments = optax.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        abstract,
        params,
        transform_non_params=lambda _: whole,
    )
    return TrainState(whole, params, moments, whole)


def _abstract_state(definition: ModelDefinition, optimizer, shardings: TrainState) -> TrainState:
    """Shapes of a state with the shardings it is to be restored to."""
    shapes = jax.eval_shape(lambda: init_state(definition.init(0), optimizer))
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        shapes,
        shardings,
    )
