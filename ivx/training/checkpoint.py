"""Checkpoints: one Orbax object of state, data position and config, written whole or not at all.

The data position is the number of global batches used, so that it means the same on any number of
hosts.
"""

import dataclasses
import json
import pathlib

import jax
import orbax.checkpoint as ocp

from ivx.errors import UserError
from ivx.models.definition import Params
from ivx.training import host_arrays
from ivx.training.state import TrainState

FOLDER = "checkpoints"


@dataclasses.dataclass(frozen=True)
class Restored:
    """A state and the number of batches that went into it."""

    state: TrainState
    next_batch: int


class Checkpoints:
    """The checkpoints of one run; saves go on in the background.

    Args:
      workdir: of the run; they lie in its folder `checkpoints`.
      keep: how many are kept.
      config: text of the config, stored with each.
    """

    def __init__(self, workdir: pathlib.Path, keep: int, config: str):
        self._config = json.loads(config)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager((workdir / FOLDER).absolute(), options=options)

    def latest(self) -> int | None:
        """Step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState, step: int) -> None:
        """Starts to write; waits only for the previous save."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave({"next_batch": step}),
                config=ocp.args.JsonSave(self._config),
            ),
        )

    def restore(self, abstract: TrainState) -> Restored:
        """Reads the newest into shapes and shardings of `abstract`, whatever mesh it came from."""
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
        )
        found = self._manager.restore(self.latest(), args=args)
        return Restored(found["state"], found["data"]["next_batch"])

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def save_params(workdir: pathlib.Path, params: Params, config: str) -> None:
    """Writes parameters that no step has changed, imported or converted, as checkpoint 0.

    Little more than the parameters themselves is in memory.
    """
    handlers = {
        "state": host_arrays.handler(),
        "data": ocp.JsonCheckpointHandler(),
        "config": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    folder = (workdir / FOLDER).absolute()
    with ocp.CheckpointManager(folder, options=options, item_handlers=handlers) as manager:
        manager.save(
            0,
            args=ocp.args.Composite(
                state=host_arrays.save_args({"params": params}),
                data=ocp.args.JsonSave({"next_batch": 0}),
                config=ocp.args.JsonSave(json.loads(config)),
            ),
        )


def load_params(
    workdir: pathlib.Path, abstract: Params, shardings: Params | None = None
) -> tuple[Params, int]:
    """Parameters of the newest checkpoint of a run, and its step.

    Args:
      workdir: of the run.
      abstract: shapes and dtypes.
      shardings: where each is to lie; None puts all on the first device.

    Raises:
      UserError: there is no checkpoint.
    """
    step = latest_step(workdir)
    if shardings is None:
        whole = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda _: whole, abstract)
    wanted = {"params": jax.tree.map(lambda s: ocp.ArrayRestoreArgs(sharding=s), shardings)}
    with ocp.PyTreeCheckpointer() as checkpointer:
        found = checkpointer.restore(
            (workdir / FOLDER).absolute() / str(step) / "state",
            args=ocp.args.PyTreeRestore(
                {"params": abstract}, restore_args=wanted, partial_restore=True
            ),
        )
    return found["params"], step


def stored_types(workdir: pathlib.Path) -> dict[str, str]:
    """Type of every parameter of the newest checkpoint, by its dotted path.

    Raises:
      UserError: there is no checkpoint.
    """
    place = (workdir / FOLDER).absolute() / str(latest_step(workdir)) / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(place).item_metadata.tree["params"]
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): str(leaf.dtype)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def latest_step(workdir: pathlib.Path) -> int:
    """Step of the newest whole checkpoint of a workdir.

    Raises:
      UserError: there is none.
    """
    folder = (workdir / FOLDER).absolute()
    if folder.is_dir():
        with ocp.CheckpointManager(folder) as manager:
            step = manager.latest_step()
        if step is not None:
            return step
    raise UserError(
        f"{workdir} holds no whole checkpoint; `ivx train`, `ivx convert` and `ivx import-hf`"
        " write them"
    )
