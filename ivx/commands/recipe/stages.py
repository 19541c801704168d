"""Runs the stages of a recipe in one process, each by the code of the command of its name.

    DIR/data                    synthetic data sets, where the recipe writes them
    DIR/{stage}                 the stage's workdir, with stage.json once it is whole
    DIR/teacher                 the teacher, scored like the others
    DIR/report.html             the table, drawn

A stage that has its stage.json is not run again. One that was cut off goes on if it trains, and
begins anew if it takes but moments.
"""

import pathlib
import shutil
import time
from collections.abc import Callable

import ml_collections

from ivx import config as configs
from ivx.commands import config_flag, convert, evaluate, export_hf, import_hf, report, train
from ivx.commands.recipe import agent, outcome, progress
from ivx.commands.recipe.progress import Done
from ivx.errors import UserError

# The stage whose parameters each stage starts from.
START = {
    "convert": "base",
    "cpt": "convert",
    "sft_short": "cpt",
    "sft_long": "sft_short",
    "rl_gspo": "sft_long",
    "opd": "rl_gspo",
}
MODELS = ("base", *START)
_ENDS = ("agent", "export")


class Recipe:
    """One recipe in one folder.

    Args:
      config: of experiments/recipe.py.
      experiments: folder of the stages' experiments.
      workdir: where everything goes.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, experiments: pathlib.Path, workdir: pathlib.Path
    ):
        self._config, self._experiments, self._workdir = config, experiments, workdir
        written = workdir / "data" / "data.json" if config.synthesize else config.mixture
        self._mixture = str(pathlib.Path(written).resolve())
        self._names = [n for n in config.stages if n != "opd" or config.teacher]

    def check(self) -> None:
        """Finds out before any work whether the stages can follow each other.

        Raises:
          UserError: they cannot; lists what is wrong.
        """
        from data_pipelines.synthetic import presets

        config, names = self._config, self._names
        wrong = [f"there is no stage {name}" for name in names if name not in (*MODELS, *_ENDS)]
        wrong += [
            f"{name} needs {START[name]} before it"
            for place, name in enumerate(names)
            if name in START and START[name] not in names[:place]
        ]
        if "base" not in names:
            wrong.append("the stages do not begin with base")
        if config.synthesize and config.synthesize not in presets.PRESETS:
            wrong.append(f"synthesize = {config.synthesize!r} is no preset of synthetic data")
        if not config.synthesize and not pathlib.Path(config.mixture).is_file():
            wrong.append(f"mixture = {config.mixture!r} is no file; name the mixture of your data")
        folders = {} if config.from_scratch else {"base": config.base}
        folders |= {"teacher": config.teacher} if "opd" in names else {}
        for key, folder in folders.items():
            if not folder or not (pathlib.Path(folder) / "config.json").is_file():
                wrong.append(
                    f"{key} = {folder!r} is no Hugging Face folder; give one as --config.{key}"
                )
        if config.evaluate.batch < 1 or config.evaluate.max_new_tokens < 1:
            wrong.append("evaluate.batch and evaluate.max_new_tokens must be at least 1")
        if wrong:
            raise UserError(f"the recipe cannot be run: {'; '.join(wrong)}")
        for name in names:
            if name in START:
                self._experiment(name)

    def run(self, say: Callable[[str], None]) -> tuple[list[Done], list[outcome.Aim], Done | None]:
        """Runs what has not been run; returns all stages, the aims and the teacher.

        Args:
          say: told what begins.

        Raises:
          UserError: a stage cannot use what the one before it made.
        """
        from ivx.parallel import start

        # Before any stage makes JAX look for devices.
        start.start(self._experiment("cpt").mesh.cpu_devices)
        if self._config.synthesize and not pathlib.Path(self._mixture).is_file():
            say("data")
            _write_data(self._workdir / "data", self._config.synthesize, self._config.seed)
        names = list(self._names)
        if "opd" in names:
            names.insert(names.index("opd"), "teacher")
        done, origin = {}, ""
        for number, name in enumerate(names, 1):
            say(f"{number}/{len(names)} {name}")
            here = progress.digest("" if name == "teacher" else origin, *self._what(name))
            done[name] = self._finished(name, here) or self._stage(name, here)
            origin = origin if name == "teacher" else here
        teacher = done.pop("teacher", None)
        splits = list(self._config.evaluate.splits)
        return list(done.values()), outcome.aims(done, teacher, splits), teacher

    def _what(self, name: str) -> list[str]:
        """What decides the outcome of a stage, besides the stages before it."""
        if name in START or (name == "base" and self._config.from_scratch):
            return [name, configs.snapshot(self._experiment(name))]
        if name in ("base", "teacher"):
            files = sorted(pathlib.Path(self._config[name]).glob("*.safetensors"))
            return [name, *[f"{path.name} {path.stat().st_size}" for path in files]]
        return [name, str(self._config.agent)]

    def _finished(self, name: str, origin: str) -> Done | None:
        """The record of a stage that is done; refuses one that was made otherwise."""
        done = progress.read(self._workdir / name)
        if done and done.origin != origin:
            raise UserError(
                f"{self._workdir / name} was made from another start or config;"
                " take another workdir, or remove it and the stages after it"
            )
        return done

    def _stage(self, name: str, origin: str) -> Done:
        """Runs one stage, scores what it made and marks it as done."""
        folder, begun = self._workdir / name, time.monotonic()
        resumed = progress.begin(self._workdir, name)
        facts = self._make(name, folder)
        trained = facts.pop("trained", {"steps": 0, "tokens": 0})
        loss, rows = self._score(folder) if name in (*MODELS, "teacher") else (None, {})
        if trained["steps"]:
            report.report(folder, configs.load_workdir(folder))
        done = Done(
            name,
            origin,
            time.monotonic() - begun,
            resumed,
            trained["steps"],
            trained["tokens"],
            facts,
            loss,
            rows,
        )
        progress.write(folder, done)
        return done

    def _make(self, name: str, folder: pathlib.Path) -> dict:
        """The work of a stage; what it reports."""
        if name == "base" and self._config.from_scratch:
            data = self._workdir / "base_data"
            if not (data / "data.json").is_file():
                _write_data(data, "base", self._config.seed)
            return self._train(name, folder)
        if name in ("base", "teacher"):
            if not (folder / "config.json").is_file():
                import_hf.import_model(pathlib.Path(self._config[name]), folder)
            return {}
        if name == "convert":
            result = convert.convert(self._experiment(name), folder)
            trained = {name: result[convert.MATCHED][name] for name in ("steps", "tokens")}
            return {
                "losses": result["losses"],
                "calibration_tokens": result["tokens"],
                "trained": trained,
            }
        if name == "agent":
            return agent.examine(self._open(self._last(), "sft_long"), self._config.agent, folder)
        if name == "export":
            out = folder / "model"
            shutil.rmtree(out, ignore_errors=True)
            model = self._open(self._last(), "sft_long")
            return {"files": list(export_hf.export_model(model, out, "bfloat16", 5.0)["files"])}
        return self._train(name, folder)

    def _train(self, name: str, folder: pathlib.Path) -> dict:
        result = train.train(self._experiment(name), folder)
        return {"trained": {"steps": result["steps"], "tokens": result["tokens"]}}

    def _experiment(self, name: str) -> ml_collections.ConfigDict:
        """The checked config of a stage, as this recipe changes it."""
        config = config_flag.load(self._experiments / f"{name}.py", self._config.preset)
        config.data.mixture = self._mixture
        config.run.seed = self._config.seed
        if name == "base":
            config.data.mixture = str(self._workdir / "base_data" / "data.json")
        else:
            config.run.start = str(self._workdir / START[name])
        steps = self._config.steps.get(name, 0)
        if steps:
            every = max(1, steps // 2 // config.stage.minibatches) * config.stage.minibatches
            config.run.update(steps=steps, save_every=every, validate_every=every, log_every=1)
        if name == "convert" and self._config.calibration_packs:
            config.stage.calibration_packs = self._config.calibration_packs
        if name == "opd":
            config.stage.teacher = str(self._workdir / "teacher")
        return config_flag.check(config)

    def _score(self, folder: pathlib.Path) -> tuple[float | None, dict]:
        """Held-out loss and rows of a model, always of the same packs, questions and frames."""
        asked = self._config.evaluate
        loss = evaluate.held_out_loss(self._open(folder, "cpt"), self._experiment("cpt"))
        rows = {}
        for split, rule in asked.splits.items():
            found = evaluate.evaluate(
                self._open(folder, rule),
                split,
                folder,
                asked.questions,
                asked.batch,
                asked.max_new_tokens,
            )
            if found["skipped"]:
                raise UserError(
                    f"{found['skipped']} questions of {split} could not be put, as said above;"
                    " stages can be compared on the same questions only: mend or remove those"
                )
            rows[split] = found["rows"]
        return loss, rows

    def _open(self, folder: pathlib.Path, rule: str):
        """A stage's model, which sees videos as the experiment `rule` does."""
        from ivx.build import stored

        model = stored.open_model(folder)
        other = self._experiment(rule)
        model.config.data.update(other.data)
        model.config.mesh.update(other.mesh)
        return model

    def _last(self) -> pathlib.Path:
        """Folder of the last stage that makes a model."""
        return self._workdir / [name for name in self._names if name in MODELS][-1]


def _write_data(out: pathlib.Path, preset: str, seed: int) -> None:
    from data_pipelines.synthetic import presets, write

    write.synthesize(out.resolve(), presets.PRESETS[preset], seed, workers=2)
