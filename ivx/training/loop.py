"""THE training loop. It runs any stage and knows none by name.

The order within a step is law, since resuming relies on it:

    validate (old parameters) -> save -> next batch -> step -> look at the step before -> write

A state saved at step i has used batches 0 .. i - 1; a resumed run asks for batch i next, and
nothing else is carried over, so that it goes on bit for bit as if it had never stopped.
"""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable

import jax
import optax
from jax.sharding import Mesh

from ivx.errors import Interrupted
from ivx.models.definition import ModelDefinition, Params
from ivx.parallel import ambient, rules
from ivx.parallel.shares import pack_share
from ivx.stages.protocol import Stage
from ivx.training import abstract, company, preemption, progress
from ivx.training.checkpoint import Checkpoints, Remote
from ivx.training.meter import Meter
from ivx.training.phases import Phases
from ivx.training.profiler import Profiler
from ivx.training.stability import RollBack, Stability
from ivx.training.state import USUAL, StepOptions, TrainState, init_state, make_validation_loss
from ivx.training.watchdog import Watchdog
from ivx.training.writers import METRICS, make_writer, read_metrics


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """How long a run is and how often it looks up; all in steps.

    `unit` steps belong together (those of one rollout): a run is left between two units only.
    """

    steps: int
    seed: int
    accumulation: int
    unit: int
    log_every: int
    validate_every: int
    save_every: int
    keep: int
    options: StepOptions = USUAL


@dataclasses.dataclass(frozen=True)
class WatchSpec:
    """What watches over a run, and changes none of its numbers while all goes well.

    Attributes:
      rollback_after: steps in a row without a finite gradient after which the run goes back to its
        last checkpoint; 0: never.
      spike: typical deviations by which a loss has to jump to be recorded; 0: none is.
      watchdog: seconds a phase may last; 0: for ever.
      watchdog_ends: whether the run is ended then.
      remote: a second place of checkpoints.
      profile: steps that are profiled, the first and the one after the last.
      explain: from an error to one that says more, or the same, where a host of several leaves.
    """

    rollback_after: int
    spike: float
    watchdog: float
    watchdog_ends: bool
    remote: Remote | None = None
    profile: tuple[int, int] | None = None
    explain: Callable[[BaseException], BaseException] = lambda error: error


# For callers that look on themselves.
UNWATCHED = WatchSpec(0, 0.0, 0.0, False)


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
    watch: WatchSpec = UNWATCHED,
) -> RunResult:
    """Trains until `spec.steps`, from the newest whole checkpoint of `workdir` if there is one.

    Args:
      workdir: where checkpoints and metrics go.
      config: text of the config, stored with each checkpoint.
      definition: the model.
      stage: batches, loss and what trains.
      optimizer: of optax.
      mesh: devices.
      spec: length and intervals.
      start: from shardings to the first parameters; None initialises new ones from the seed.
      watch: what watches over the run.

    Raises:
      Interrupted: the run was told to end (SIGTERM), and has saved what it had.
      UserError: no checkpoint is whole, or gradients are never finite again.
    """
    attempt = functools.partial(
        _train, workdir, config, definition, stage, optimizer, mesh, spec, start, watch
    )
    phases = Phases()
    stability = Stability(workdir, watch.rollback_after, watch.spike)
    with Watchdog(phases, watch.watchdog, watch.watchdog_ends, workdir):
        while True:
            try:
                return attempt(phases, stability)
            except RollBack as row:
                progress.note(f"ROLLBACK: {row}; the run goes back to its last checkpoint")
                stability.restart()


def _train(
    workdir, config, definition, stage, optimizer, mesh, spec, start, watch, phases, stability
) -> RunResult:
    """From the newest checkpoint to the end, once; arguments as above."""
    phases.enter("start", 0)
    # ------------------------------------------------------------------------------------ state
    averaged = spec.options.ema > 0
    state_shardings = abstract.state_shardings(definition, optimizer, mesh, averaged)
    checkpoints = Checkpoints(workdir, spec.keep, config, watch.remote)
    if checkpoints.latest() is None:
        params = start(state_shardings.params) if start else None
        state = jax.jit(
            lambda given: init_state(given or definition.init(spec.seed), optimizer, averaged),
            out_shardings=state_shardings,
        )(params)
        done = 0
    else:
        restored = checkpoints.restore(
            abstract.abstract_state(definition, optimizer, state_shardings)
        )
        state, done = restored.state, restored.next_batch
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    progress.note(
        f"model of {parameters:,} parameters on {mesh.size} devices, at step {done} of {spec.steps}"
    )

    # ------------------------------------------------------------------------------------ functions
    whole = rules.replicated(mesh)
    step = abstract.jit_step(
        definition, stage, optimizer, spec.accumulation, state_shardings, mesh, spec.options
    )
    validation_loss = jax.jit(
        ambient.under(mesh, make_validation_loss(definition, stage)), out_shardings=whole
    )
    validation = [rules.put_batch(batch, mesh) for batch in stage.validation()]
    frozen = stage.frozen(mesh)

    # ------------------------------------------------------------------------------------ loop
    writer = make_writer(workdir, done)
    producer = stage.producer(done) if done < spec.steps else None
    bar = progress.TrainingBar(spec.steps, done)
    # What a resumed run had seen stands in the last row before its checkpoint.
    newest = _last_numbers(workdir, done)
    counts, sizes = pack_share(mesh).first, getattr(definition, "spec", None)
    meter = Meter(phases, int(newest.get("tokens/seen", 0)), sizes, counts)
    profiler = Profiler(workdir, watch.profile)

    def write(step: int, numbers: dict[str, float]) -> None:
        if numbers:
            newest.update(numbers)
            writer.write_scalars(step, numbers)
            writer.flush()

    with contextlib.ExitStack() as closing:
        notice = closing.enter_context(preemption.Notice(spec.unit))
        for part in (checkpoints, writer, bar, profiler):
            closing.callback(part.close)
        closing.push(functools.partial(company.leave_on_failure, explain=watch.explain))
        for number in range(done, spec.steps):
            leaving = notice.reached(number)
            # A resumed run has validated and saved its first state already.
            if number != done and number % spec.validate_every == 0:
                phases.enter("evaluate", number)
                write(number, _validate(validation_loss, state, frozen, validation))
            if number != done and (leaving or number % spec.save_every == 0):
                phases.enter("save", number)
                stability.catch_up()
                if leaving or stability.sound():
                    write(number, {"tokens/seen": meter.seen()})
                    checkpoints.save(state, number, last=leaving)
            if leaving:
                kept = f"saved step {number}" if number else "before the first step"
                raise Interrupted(f"told to end (SIGTERM): {kept} of {spec.steps}")
            profiler.reach(number)
            phases.enter("first batch" if number == done else "data", number)
            loaded = producer.next(state.params)
            phases.enter("first step" if number == done else "step", number)
            state, metrics = step(state, frozen, rules.put_batch(loaded.batch, mesh))
            stability.add(number, metrics, loaded.samples)
            meter.count(loaded)
            bar.advance()
            if (number + 1) % spec.log_every == 0 or number + 1 == spec.steps:
                numbers = {name: float(value) for name, value in metrics.items()} | meter.read()
                write(number + 1, numbers)
                bar.show(numbers)

        # -------------------------------------------------------------------------------- end
        stability.catch_up()
        if done < spec.steps:
            phases.enter("evaluate", spec.steps)
            write(spec.steps, _validate(validation_loss, state, frozen, validation))
            phases.enter("save", spec.steps)
            checkpoints.save(state, spec.steps, last=True)
    return RunResult(
        steps=spec.steps,
        loss=newest["loss/total"],
        validation_loss=newest.get("validation/loss"),
        skipped_steps=int(state.skipped),
        skipped_samples=meter.skipped,
        tokens=int(newest["tokens/seen"]),
        tokens_per_second=meter.mean_speed(),
        parameters=parameters,
    )


def _validate(validation_loss, state: TrainState, frozen: Params, batches) -> dict[str, float]:
    """The loss over all validation batches as one quotient; without batches, nothing."""
    losses = [validation_loss(state.params, frozen, batch) for batch in batches]
    if not losses:
        return {}
    loss = sum(loss.total for loss in losses) / sum(loss.weight for loss in losses)
    return {"validation/loss": float(loss)}


def _last_numbers(workdir: pathlib.Path, done: int) -> dict[str, float]:
    """The newest value of every metric up to this step, from earlier starts of the run."""
    path, newest = workdir / METRICS, {}
    for row in read_metrics(path) if path.exists() else ():
        if row["step"] <= done:
            newest |= row
    return newest
