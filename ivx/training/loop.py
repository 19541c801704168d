"""THE training loop. It runs any stage and knows none by name.

The order within a step is law, since resuming relies on it:

    validate (old parameters) -> save -> next batch -> step -> inspect the step before -> write

A state saved at step i has used batches 0 .. i - 1. A resumed run asks for batch i next and carries
nothing else over, so it continues bit for bit as if it had never stopped.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from clu import parameter_overview
from jax.sharding import Mesh

from ivx import progress
from ivx.models.definition import ModelDefinition, Params
from ivx.parallel import batches, sharding
from ivx.stages.protocol import Loss, Stage, StageBatch
from ivx.training import data_changes, metrics_line
from ivx.training import step as training_step
from ivx.training.checkpoints.checkpoint import Checkpoints, Remote
from ivx.training.health import failures, preemption
from ivx.training.health.bad_steps import BadSteps, RollBack
from ivx.training.health.phases import Phases
from ivx.training.health.profiler import Profiler
from ivx.training.health.watchdog import Watchdog
from ivx.training.meter import Meter
from ivx.training.step import PLAIN, StepOptions, TrainState
from ivx.training.writers import METRICS, make_writer, read_metrics

# Names, shapes and sizes of all parameters, beside the metrics.
PARAMETERS = "parameters.txt"


@dataclasses.dataclass(frozen=True)
class Length:
    """How long a run is and how often it validates, logs and saves; all in steps.

    Attributes:
      steps: of the whole run.
      unit: steps that belong together (those of one rollout); a run stops between two units only.
      log_every: steps between two rows of metrics.
      validate_every: steps between two validations.
      save_every: steps between two checkpoints.
      keep: checkpoints kept on disk.
    """

    steps: int
    unit: int
    log_every: int
    validate_every: int
    save_every: int
    keep: int


@dataclasses.dataclass(frozen=True)
class Watch:
    """What watches over a run; it changes no number while all goes well.

    Attributes:
      rollback_after: consecutive non-finite steps after which the run returns to its last
        checkpoint; 0 never does.
      spike: typical deviations by which a loss must jump to be recorded; 0 records none.
      watchdog: seconds a phase may last before stacks are dumped; 0 means no limit.
      watchdog_ends: whether the run is then ended.
      remote: a second place for checkpoints.
      profile: the first step to profile and the one after the last.
      explain: turns an error into one that says more, or returns it; called where a host of
        several leaves.
    """

    rollback_after: int = 0
    spike: float = 0.0
    watchdog: float = 0.0
    watchdog_ends: bool = False
    remote: Remote | None = None
    profile: tuple[int, int] | None = None
    explain: Callable[[BaseException], BaseException] = lambda error: error


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything a run is made of.

    Attributes:
      workdir: where checkpoints and metrics go.
      config: text of the config, stored with each checkpoint.
      model: what trains.
      stage: batches, loss and which parameters train.
      optimizer: of optax.
      mesh: devices.
      length: steps and intervals.
      options: of the step.
      watch: what watches over the run.
      seed: for new parameters.
      initial_params: from shardings to the first parameters, which become part of the state; None
        initialises them from the seed. Called again if the run returns to its start.
      sources: what the data sets are, by name (`data_pipelines.data_record`).
      accept_data_change: whether the run may go on if they were others before.
    """

    workdir: pathlib.Path
    config: str
    model: ModelDefinition
    stage: Stage
    optimizer: optax.GradientTransformation
    mesh: Mesh
    length: Length
    options: StepOptions = PLAIN
    watch: Watch = Watch()
    seed: int = 0
    initial_params: Callable[[Params], Params] | None = None
    sources: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    accept_data_change: bool = False


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


def train(run: Run) -> RunResult:
    """Trains to the end, from the newest intact checkpoint of the workdir if there is one.

    Raises:
      Interrupted: the run was told to stop (SIGTERM, Ctrl-C) and has saved its state.
      UserError: no checkpoint is intact, the data are others than before, or gradients are not
        finite again after a rollback.
    """
    phases = Phases()
    bad_steps = BadSteps(run.workdir, run.watch.rollback_after, run.watch.spike)
    watchdog = Watchdog(phases, run.watch.watchdog, run.watch.watchdog_ends, run.workdir)
    with contextlib.closing(phases), watchdog:
        while True:
            try:
                return _train_from_checkpoint(run, phases, bad_steps)
            except RollBack as reason:
                progress.note(f"ROLLBACK: {reason}; the run returns to its last checkpoint")
                bad_steps.restart()


def _train_from_checkpoint(run: Run, phases: Phases, bad_steps: BadSteps) -> RunResult:
    """From the newest checkpoint to the end, once."""
    phases.enter("start", 0)
    length, mesh = run.length, run.mesh
    # ------------------------------------------------------------------------------------ state
    checkpoints = Checkpoints(run.workdir, length.keep, run.config, run.watch.remote)
    state_shardings = training_step.state_shardings(
        run.model, run.optimizer, mesh, averaged=run.options.averaged
    )
    state, done, stored = _restore_or_init(run, checkpoints, state_shardings)
    if done < length.steps:
        checkpoints.facts = data_changes.facts(run.sources, stored, done, run.accept_data_change)
        if jax.process_index() == 0:
            data_changes.write(run.workdir, checkpoints.facts["changes"])
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    progress.note(
        f"{parameters:,} parameters on {mesh.size} devices, step {done} of {length.steps}"
    )
    if jax.process_index() == 0:
        overview = parameter_overview.get_parameter_overview(state.params, include_stats=False)
        (run.workdir / PARAMETERS).write_text(overview + "\n")

    # ------------------------------------------------------------------------------------ functions
    step = training_step.jit_step(
        run.model, run.stage, run.optimizer, state_shardings, mesh, run.options
    )
    validation_loss = jax.jit(
        sharding.under_mesh(mesh, training_step.make_validation_loss(run.model, run.stage)),
        out_shardings=sharding.replicated(mesh),
    )
    validation = [batches.put_batch(batch, mesh) for batch in run.stage.validation()]
    frozen = run.stage.frozen(mesh)

    # ------------------------------------------------------------------------------------ loop
    writer = make_writer(run.workdir, done)
    producer = run.stage.producer(done) if done < length.steps else None
    bar = progress.Bar(length.steps, "train", "steps", done, quiet=0.0)
    # A resumed run takes up the counts of the last row before its checkpoint.
    newest = _last_metrics(run.workdir, done)
    meter = Meter(
        phases,
        int(newest.get("tokens/seen", 0)),
        getattr(run.model, "spec", None),
        batches.pack_share(mesh).first,
    )
    profiler = Profiler(run.workdir, run.watch.profile)

    def write(step: int, metrics: dict[str, float]) -> None:
        if metrics:
            newest.update(metrics)
            writer.write_scalars(step, metrics)
            writer.flush()

    with contextlib.ExitStack() as closing:
        notice = closing.enter_context(preemption.Notice(length.unit))
        for part in (checkpoints, writer, bar, profiler):
            closing.callback(part.close)
        closing.push(functools.partial(failures.leave_on_failure, explain=run.watch.explain))
        for number in range(done, length.steps):
            leaving = notice.reached(number)
            # A resumed run has validated and saved its first state already.
            if number != done and number % length.validate_every == 0:
                phases.enter("evaluate", number)
                write(number, _validate(validation_loss, state, frozen, validation))
            if number != done and (leaving or number % length.save_every == 0):
                phases.enter("save", number)
                bad_steps.catch_up()
                if leaving or bad_steps.sound():
                    write(number, {"tokens/seen": meter.seen()})
                    checkpoints.save(state, number, last=leaving)
            if leaving:
                saved = f"saved step {number}" if number else "before the first step"
                raise notice.interruption(f"{saved} of {length.steps}")
            profiler.reach(number)
            phases.enter("first batch" if number == done else "data", number)
            loaded = producer.next(state.params)
            phases.enter("first step" if number == done else "step", number)
            state, metrics = step(state, frozen, batches.put_batch(loaded.batch, mesh))
            bad_steps.add(number, metrics, loaded.samples)
            meter.count(loaded)
            bar.advance()
            if (number + 1) % length.log_every == 0 or number + 1 == length.steps:
                row = {name: float(value) for name, value in metrics.items()} | meter.read()
                write(number + 1, row)
                bar.show(metrics_line.line(row))

        # -------------------------------------------------------------------------------- end
        bad_steps.catch_up()
        if done < length.steps:
            phases.enter("evaluate", length.steps)
            write(length.steps, _validate(validation_loss, state, frozen, validation))
            phases.enter("save", length.steps)
            checkpoints.save(state, length.steps, last=True)
    return RunResult(
        steps=length.steps,
        loss=newest.get("loss/total", math.nan),
        validation_loss=newest.get("validation/loss"),
        skipped_steps=int(state.skipped),
        skipped_samples=meter.skipped,
        tokens=int(newest.get("tokens/seen", 0)),
        tokens_per_second=meter.mean_speed(),
        parameters=parameters,
    )


def _restore_or_init(
    run: Run, checkpoints: Checkpoints, shardings: TrainState
) -> tuple[TrainState, int, dict[str, Any] | None]:
    """The state to begin with, how many batches it has used, and what is stored with it."""
    if checkpoints.latest() is not None:
        abstract = training_step.abstract_state(run.model, run.optimizer, shardings)
        restored = checkpoints.restore(abstract)
        return restored.state, restored.next_batch, restored.facts
    params = run.initial_params(shardings.params) if run.initial_params else None
    if params:
        # Only an array that already lies where the state has it can become part of the state.
        params = jax.tree.map(sharding.place, params, shardings.params)
    averaged = run.options.averaged
    init = jax.jit(
        lambda params: training_step.init_state(
            params or run.model.init(run.seed), run.optimizer, averaged
        ),
        out_shardings=shardings,
        # Otherwise the start would be held beside the state for the whole run.
        donate_argnums=0,
    )
    return init(params), 0, None


def _validate(
    validation_loss: Callable[[Params, Params, StageBatch], Loss],
    state: TrainState,
    frozen: Params,
    validation: Sequence[StageBatch],
) -> dict[str, float]:
    """The loss over all validation batches as one quotient; empty without batches."""
    losses = []
    for batch in progress.track(validation, len(validation), "validation", "batches"):
        losses.append(validation_loss(state.params, frozen, batch))
        # XLA:CPU lets 32 computations of a device wait. Beyond, one device may fill up before the
        # other has joined an all-reduce, and both wait forever.
        jax.block_until_ready(losses[-2:-1])
    if not losses:
        return {}
    loss = sum(loss.total for loss in losses) / sum(loss.weight for loss in losses)
    return {"validation/loss": float(loss)}


def _last_metrics(workdir: pathlib.Path, done: int) -> dict[str, float]:
    """The metrics of this step, and the tokens seen until then, from earlier starts of the run."""
    newest = {}
    for row in read_metrics(workdir / METRICS):
        if row["step"] == done:
            newest |= row
        elif row["step"] < done and math.isfinite(row.get("tokens/seen", math.nan)):
            newest["tokens/seen"] = row["tokens/seen"]
    return newest
