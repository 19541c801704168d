"""A run's workdir: its config.json, and whether a run with another config may continue in it."""

import datetime
import json
import pathlib

import ml_collections

from ivx import config_keys, local_files
from ivx.config import base, flatten, snapshot
from ivx.config_checks import validate
from ivx.errors import UserError

# How a run is spread, fed and watched, not what it computes: a run may continue with other values.
_FREE = (
    *("mesh.", "watch.", "model.remat", "run.follows"),
    *("data.workers", "data.threads", "data.prefetch", "data.cache_gib"),
    *("run.log_every", "run.validate_every", "run.save_every", "run.keep"),
    # What it computes next; `ivx.from_config.changed_length` has the rule.
    "run.steps",
)
# One line for each start with other values: {"time", "step", "changed": {key: [before, now]}}.
CHANGES = "config_changes.jsonl"
# Of config.json while it is being written.
PARTIAL = ".config.json.partial"
# Keys of earlier versions -> today's, with how a value changes.
_RENAMED = {
    "optim.train": ("optim.trainable", lambda v: v),
    "stage.turn": ("stage.mean_rotation", lambda v: v == "mean"),
    "stage.polish": ("stage.fit_output", lambda v: v),
}
_RENAMED_SECTIONS = {"train": "watch"}
# Keys that recipes have had only since a later version.
_RECIPE_DEFAULTS = {"validate_packs": 0}


def renamed(key: str) -> str:
    """Today's name of a dotted key of this or an earlier version."""
    section, dot, name = key.partition(".")
    key = f"{_RENAMED_SECTIONS.get(section, section)}.{name}" if dot else key
    return _RENAMED[key][0] if key in _RENAMED else key


def parse(path: str) -> pathlib.Path:
    """The workdir as a path.

    Raises:
      UserError: none was given, or a file is in its place.
    """
    if not path:
        raise UserError(
            "no --workdir was given; name the folder of the run, as in --workdir=/tmp/ivx/sft"
        )
    if "://" in path:
        raise UserError(
            f"--workdir={path} is not a local folder; mount the bucket (gcsfuse), or give a local"
            " folder and --config.watch.remote for checkpoints"
        )
    if pathlib.Path(path).is_file():
        raise UserError(f"--workdir={path} is a file; give a folder")
    return pathlib.Path(path)


def check(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> list[str]:
    """Checks that `workdir` is free or holds a run that can continue with this config.

    Returns:
      The differences from the stored config that are allowed.

    Raises:
      UserError: the folder holds a run with another config; lists the keys that differ.
    """
    return [_sentence(key, *pair) for key, pair in _changed(workdir, config).items()]


def _sentence(key: str, old: object, new: object) -> str:
    return f"{key} ({old!r} there, {new!r} here)"


def _changed(
    workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> dict[str, tuple[object, object]]:
    """As `check`: the old and the new value of each key."""
    path = workdir / "config.json"
    if not path.exists():
        return {}
    new = flatten(config)
    old = _migrated(flatten(_read(path)))
    # A key added in a later version has its default in runs of earlier ones.
    if new.get("stage.name") in config_keys.STAGES:
        defaults = flatten(base(new["stage.name"]))
    else:
        defaults = _RECIPE_DEFAULTS
    old = {key: value for key, value in defaults.items() if key in new} | old
    differing = {
        key: (old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }
    free = (*_FREE, *_exact_in_parts(new), *_compared_with_data(new))
    fixed = [_sentence(key, *pair) for key, pair in differing.items() if not key.startswith(free)]
    if fixed:
        names = ", ".join(f"{key}*" if key.endswith(".") else key for key in free)
        hint = f" (only {names} may change between two starts)" if "stage.name" in new else ""
        raise UserError(
            f"{workdir} holds a run with another config: {', '.join(fixed)};"
            f" give another --workdir, or the old values{hint}"
        )
    return differing


def _exact_in_parts(flat: dict[str, object]) -> tuple[str, ...]:
    """Micro-batches change nothing where the loss is one quotient over the whole batch."""
    several = flat.get("stage.name") == "convert" or flat.get("stage.rehearse")
    return () if several else ("optim.accumulation",)


def _compared_with_data(flat: dict[str, object]) -> tuple[str, ...]:
    """Data may be moved where a checkpoint says what they were; sums of a conversion do not."""
    return () if flat.get("stage.name") == "convert" else ("data.mixture",)


def claim(workdir: pathlib.Path, config: ml_collections.ConfigDict, step: int = 0) -> list[str]:
    """Writes config.json, atomically, which makes `workdir` that of this config.

    What changed is recorded in config_changes.jsonl. Only the holder of the workdir's lock calls
    this. Returns and raises what `check` does.

    Args:
      workdir: of the run.
      config: of the run.
      step: of the newest checkpoint, for the record.
    """
    changed = _changed(workdir, config)
    path = workdir / "config.json"
    if changed:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with (workdir / CHANGES).open("a") as file:
            file.write(json.dumps({"time": now, "step": step, "changed": changed}) + "\n")
    if changed or not path.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / PARTIAL).write_text(snapshot(config))
        (workdir / PARTIAL).replace(path)
    return [_sentence(key, *pair) for key, pair in changed.items()]


def load(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """The config that a workdir was made with.

    Raises:
      UserError: there is none, or it does not fit this version.
    """
    path = workdir / "config.json"
    if not path.is_file():
        if stages := _models_in(workdir):
            raise UserError(f"{workdir} is not a workdir; give one of those in it: {stages}")
        raise UserError(
            f"{workdir} is not a workdir: it has no config.json; `ivx train`, `ivx convert` and"
            f" `ivx import-hf` make one{local_files.download_hint(str(workdir))}"
        )
    flat = _migrated(flatten(_read(path)))
    if "stages" in flat:
        stages = _models_in(workdir) or "none is complete yet"
        raise UserError(f"{workdir} is the workdir of a recipe; give that of a stage: {stages}")
    if "stage.name" not in flat:
        raise UserError(f"{path} is not the config of a run; give the --workdir of a run")
    try:
        config = base(flat["stage.name"])
        for key, value in flat.items():
            section, name = key.split(".")
            config[section].update({name: value})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not fit this version of ivx: {error}") from error
    try:
        validate(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return config


def _models_in(workdir: pathlib.Path) -> str:
    """The folders in a folder that hold a model, such as the stages of a recipe, oldest first."""
    configs = [*workdir.glob("[!.]*/config.json"), *workdir.glob("[!.]*/model/config.json")]
    configs.sort(key=lambda path: (path.stat().st_mtime, str(path)))
    return ", ".join(str(path.parent.relative_to(workdir)) for path in configs[:12])


def _migrated(flat: dict[str, object]) -> dict[str, object]:
    """A flat snapshot of an earlier version with today's keys.

    Earlier configs list the keys of every stage; those of other stages are dropped.
    """
    stage = flat.get("stage.name")
    if not isinstance(stage, str) or stage not in config_keys.STAGES:
        return flat
    known, elsewhere = config_keys.of(stage), config_keys.everything()
    migrated = {}
    for key, value in flat.items():
        key, before = renamed(key), key
        if before in _RENAMED:
            value = _RENAMED[before][1](value)
        if key in known or key not in elsewhere or key == "stage.name":
            migrated[key] = value
    return migrated


def _read(path: pathlib.Path) -> dict:
    """A snapshot.

    Raises:
      UserError: the file is damaged.
    """
    try:
        plain = json.loads(path.read_text())
    except RecursionError:
        raise UserError(
            f"{path} is damaged: it is nested too deeply; take another workdir"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; take another workdir") from error
    if not isinstance(plain, dict):
        raise UserError(f"{path} is damaged: it holds no config; take another workdir")
    return plain
