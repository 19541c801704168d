"""Runs the stages of a recipe in one process, each with the code of its command.

    DIR/data                    synthetic data sets, if the recipe writes them
    DIR/{stage}                 workdir of a stage, with stage.json once it is complete
    DIR/teacher                 the teacher, scored like the stages
    DIR/report.html             the page

A stage with a stage.json is not run again. An interrupted stage resumes if it trains, and starts
over if it is short.
"""

import itertools
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import ml_collections

from ivx import bundled, local_files
from ivx import config as configs
from ivx import workdir as workdirs
from ivx.commands import (
    config_flag,
    convert,
    convert_summary,
    evaluate,
    experiments,
    import_hf,
    report,
    train,
)
from ivx.commands.recipe import agent
from ivx.errors import UserError
from ivx.reporting.recipe import aims, record
from ivx.reporting.recipe.aims import Aim
from ivx.reporting.recipe.purpose import PURPOSE
from ivx.reporting.recipe.record import StageRecord

# A run with less than this share of a preset's steps shows that the stages work, and no skill.
_FEW_STEPS = 0.1
TRAINED = ("convert", "cpt", "sft_short", "sft_long", "rl_gspo", "opd")
MODELS = ("base", *TRAINED)
ORDER = (*MODELS, "agent", "export")


class Recipe:
    """One recipe in one folder.

    Args:
      config: a config of experiments/recipe.py.
      experiments: folder of the stages' experiments.
      workdir: folder of all outputs.
      accept_data_change: whether an interrupted stage may go on with other data.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        experiments: pathlib.Path,
        workdir: pathlib.Path,
        accept_data_change: bool = False,
    ) -> None:
        self._config, self._experiments, self._workdir = config, experiments, workdir
        self._accept_data_change = accept_data_change
        mixture = workdir / "data" / "data.json" if config.synthesize else config.mixture
        self._mixture = str(pathlib.Path(mixture).resolve())
        self._names = [name for name in config.stages if name != "opd" or config.teacher]

    def check(self) -> None:
        """Checks before any work whether the stages can follow each other.

        Raises:
          UserError: lists all errors.
        """
        from data_pipelines.synthetic import presets

        config, names = self._config, self._names
        errors = [f"there is no stage {name}" for name in names if name not in ORDER]
        errors += [
            f"{name} comes before {previous}; the order is {', '.join(ORDER)}"
            for previous, name in itertools.pairwise(names)
            if {name, previous} <= set(ORDER) and ORDER.index(name) < ORDER.index(previous)
        ]
        if names[:1] != ["base"]:
            errors.append("the stages do not begin with base")
        if len(set(names)) < len(names):
            errors.append("a stage is named twice")
        if names[1:2] != ["convert"] and set(names) & set(TRAINED):
            errors.append("training begins with convert: base has grouped attention")
        if config.synthesize and config.synthesize not in presets.PRESETS:
            errors.append(f"synthesize = {config.synthesize!r} is not a preset of synthetic data")
        if not config.synthesize and not pathlib.Path(config.mixture).is_file():
            errors.append(f"mixture = {config.mixture!r} is not a file; name your mixture file")
        folders = {} if config.from_scratch else {"base": config.base}
        folders |= {"teacher": config.teacher} if "opd" in names else {}
        for key, folder in folders.items():
            if not folder or not (bundled.find(folder) / "config.json").is_file():
                errors.append(
                    f"{key} = {folder!r} is not a Hugging Face folder; give one as --config.{key}"
                    f"{local_files.download_hint(folder)}"
                )
        if config.evaluate.batch < 1 or config.evaluate.max_new_tokens < 1:
            errors.append("evaluate.batch and evaluate.max_new_tokens must be at least 1")
        if errors:
            raise UserError(f"the recipe cannot be run: {'; '.join(errors)}")
        for name in names:
            if name in TRAINED:
                self._experiment(name)

    def has_few_steps(self) -> bool:
        """Whether a stage trains for so few steps that scores and aims mean nothing."""
        for name in self._names:
            steps = self._config.steps.get(name, 0) if name in TRAINED else 0
            if steps:
                path = self._experiments / f"{name}.py"
                usual = experiments.load(path, self._config.preset).run.steps
                if steps < _FEW_STEPS * usual:
                    return True
        return False

    def run(
        self, announce: Callable[[str], None]
    ) -> tuple[list[StageRecord], list[Aim], StageRecord | None]:
        """Runs the stages that are not complete; returns all stages, the aims and the teacher.

        A recipe with few steps has no aims.

        Args:
          announce: called with the title of each stage before it starts.

        Raises:
          UserError: a stage cannot use the output of the one before it.
        """
        from ivx.parallel import devices

        # Before any stage makes JAX look for devices.
        devices.configure_devices(self._experiment("cpt").mesh.cpu_devices)
        if self._config.synthesize and not pathlib.Path(self._mixture).is_file():
            announce("data: write synthetic videos with questions")
            _write_data(self._workdir / "data", self._config.synthesize, self._config.seed)
        names = list(self._names)
        if "opd" in names:
            names.insert(names.index("opd"), "teacher")
        records, origin = {}, ""
        for number, name in enumerate(names, 1):
            purpose = PURPOSE[name]
            if name == "agent" and "sft_long" not in names:
                purpose += (
                    " (without the stage that trains tool calls: read the trace, not the score)"
                )
            announce(f"{number}/{len(names)} {name}: {purpose}")
            digest = record.digest("" if name == "teacher" else origin, *self._inputs(name))
            records[name] = self._finished(name, digest) or self._run_stage(name, digest)
            origin = origin if name == "teacher" else records[name].origin
        teacher = records.pop("teacher", None)
        splits = list(self._config.evaluate.splits)
        results = [] if self.has_few_steps() else aims.aims(records, teacher, splits)
        return list(records.values()), results, teacher

    def _inputs(self, name: str) -> list[str]:
        """Inputs of a stage other than the stages before it, for its digest."""
        if name in TRAINED or (name == "base" and self._config.from_scratch):
            return [name, configs.snapshot(self._experiment(name))]
        if name in ("base", "teacher"):
            files = sorted(bundled.find(self._config[name]).glob("*.safetensors"))
            return [name, *[f"{path.name} {path.stat().st_size}" for path in files]]
        return [name, str(self._config.agent)]

    def _finished(self, name: str, origin: str) -> StageRecord | None:
        """The record of a complete stage; rejects one with other inputs."""
        stage = record.read(self._workdir / name)
        if stage and stage.origin != origin and not self._is_of_earlier_version(name, stage):
            raise UserError(
                f"{self._workdir / name} was made from another start or config;"
                " take another workdir, or remove it and the stages after it"
            )
        return stage

    def _is_of_earlier_version(self, name: str, stage: StageRecord) -> bool:
        """Whether only config keys were added or renamed since a stage was completed.

        Digests are of today's snapshot; the config in the stage's workdir says whether it differs.
        """
        if name not in TRAINED:
            return False
        try:
            differing = workdirs.check(self._workdir / name, self._experiment(name))
        except UserError:
            return False
        return not differing

    def _run_stage(self, name: str, origin: str) -> StageRecord:
        """Runs one stage, scores its model and writes its record."""
        folder, start = self._workdir / name, time.monotonic()
        resumed = record.begin(self._workdir, name)
        facts = self._make(name, folder)
        trained = facts.pop("trained", {"steps": 0, "tokens": 0})
        loss, rows = self._score(folder) if name in (*MODELS, "teacher") else (None, {})
        if trained["steps"]:
            report.report(folder, workdirs.load(folder))
        stage = StageRecord(
            name=name,
            origin=origin,
            seconds=time.monotonic() - start,
            resumed=resumed,
            steps=trained["steps"],
            tokens=trained["tokens"],
            facts=facts,
            loss=loss,
            rows=rows,
        )
        record.write(folder, stage)
        return stage

    def _make(self, name: str, folder: pathlib.Path) -> dict:
        """The work of a stage; returns its facts."""
        if name == "base" and self._config.from_scratch:
            data = self._workdir / "base_data"
            if not (data / "data.json").is_file():
                _write_data(data, "base", self._config.seed)
            return self._train(name, folder)
        if name in ("base", "teacher"):
            if not (folder / "config.json").is_file():
                import_hf.import_model(bundled.find(self._config[name]), folder)
            return {}
        if name == "convert":
            result = convert.convert(self._experiment(name), folder, self._accept_data_change)
            return {
                "losses": result["losses"],
                "calibration_tokens": result["tokens"],
                "trained": {
                    key: result[convert_summary.MATCHED][key] for key in ("steps", "tokens")
                },
            }
        if name == "agent":
            return agent.examine(self._open(self._last(), "sft_long"), self._config.agent, folder)
        if name == "export":
            return self._export(folder / "model")
        return self._train(name, folder)

    def _export(self, out: pathlib.Path) -> dict:
        from ivx import from_config

        shutil.rmtree(out, ignore_errors=True)
        model = self._open(self._last(), "sft_long")
        return {
            "files": list(from_config.export.export_model(model, out, "bfloat16", 5.0)["files"])
        }

    def _train(self, name: str, folder: pathlib.Path) -> dict:
        result = train.train(self._experiment(name), folder, self._accept_data_change)
        return {"trained": {"steps": result["steps"], "tokens": result["tokens"]}}

    def _experiment(self, name: str) -> ml_collections.ConfigDict:
        """The checked config of a stage, with the changes of this recipe."""
        config = experiments.load(self._experiments / f"{name}.py", self._config.preset)
        config.data.mixture = self._mixture
        config.run.seed = self._config.seed
        if name == "base":
            config.data.mixture = str(self._workdir / "base_data" / "data.json")
        else:
            config.run.start = str(self._workdir / self._previous(name))
        steps = self._config.steps.get(name, 0)
        if steps:
            unit = config.stage.get("minibatches", 1)
            every = max(1, steps // 2 // unit) * unit
            config.run.update(steps=steps, save_every=every, validate_every=every, log_every=1)
        if self._config.validate_packs:
            config.run.validate_packs = self._config.validate_packs
        if name == "convert" and self._config.calibration_packs:
            config.stage.calibration_packs = self._config.calibration_packs
        if name == "opd":
            config.stage.teacher = str(self._workdir / "teacher")
        return config_flag.check(config)

    def _score(self, folder: pathlib.Path) -> tuple[float | None, dict]:
        """Held-out loss and rows of a model, on the same packs, questions and frames each time."""
        options = self._config.evaluate
        loss = evaluate.held_out_loss(self._open(folder, "cpt"), self._experiment("cpt"))
        rows = {}
        for split, experiment in options.splits.items():
            result = evaluate.evaluate(
                self._open(folder, experiment),
                split,
                folder,
                options.questions,
                options.batch,
                options.max_new_tokens,
            )
            if result["skipped"]:
                raise UserError(
                    f"{result['skipped']} questions of {split} were skipped for the reasons above;"
                    " stages must answer the same questions: repair or remove those samples"
                )
            rows[split] = result["rows"]
        return loss, rows

    def _open(self, folder: pathlib.Path, experiment: str) -> Any:
        """The stored model of a stage, with the data and mesh keys of an experiment."""
        from ivx import from_config

        model = from_config.stored_model.open_model(folder)
        other = self._experiment(experiment)
        model.config.data.update(other.data)
        model.config.mesh.update(other.mesh)
        return model

    def _previous(self, name: str) -> str:
        """The stage whose model a stage starts from: the last before it that makes one."""
        names = self._names if name in self._names else MODELS
        return [before for before in names[: names.index(name)] if before in MODELS][-1]

    def _last(self) -> pathlib.Path:
        """Folder of the last stage that makes a model."""
        return self._workdir / [name for name in self._names if name in MODELS][-1]


def _write_data(out: pathlib.Path, preset: str, seed: int) -> None:
    from data_pipelines.synthetic import presets, write

    write.synthesize(out.resolve(), presets.PRESETS[preset], seed, workers=2)
