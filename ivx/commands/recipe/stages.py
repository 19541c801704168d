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

from ivx.commands import config_flag, convert, evaluate, export_hf, import_hf, train
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


class Recipe:
    """One recipe in one folder.

    Args:
      config: of experiments/recipe.py.
      experiments: folder of the stages' experiments.
      workdir: where everything goes.
      from_scratch: train the base instead of importing it.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        experiments: pathlib.Path,
        workdir: pathlib.Path,
        from_scratch: bool,
    ):
        self._config, self._experiments = config, experiments
        self._workdir, self._from_scratch = workdir, from_scratch
        self._mixture = config.mixture or str(workdir / "data" / "data.json")

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
        self._workdir.mkdir(parents=True, exist_ok=True)
        if self._config.synthesize:
            say("data")
            self._synthesize()
        names = list(self._config.stages)
        if "opd" in names:
            names.insert(names.index("opd"), "teacher")
        for number, name in enumerate(names, 1):
            say(f"{number}/{len(names)} {name}")
            if progress.read(self._workdir / name) is None:
                self._stage(name)
        done = {name: progress.read(self._workdir / name) for name in names}
        teacher = done.pop("teacher", None)
        return list(done.values()), outcome.aims(done, teacher), teacher

    def check(self) -> None:
        """Finds out before any work whether the stages follow each other and can begin.

        Raises:
          UserError: they do not, or data or base are not there.
        """
        names = self._config.stages
        unknown = [name for name in names if name not in (*MODELS, "agent", "export")]
        if unknown:
            raise UserError(f"the recipe knows no stage {', '.join(unknown)}")
        missing = [
            f"{name} needs {START[name]}" for name in names if START.get(name, name) not in names
        ]
        if missing:
            raise UserError(f"the stages do not follow each other: {'; '.join(missing)}")
        if not self._config.synthesize and not self._config.mixture:
            raise UserError("no --config.mixture was given; name the mixture of the data sets")
        if not self._from_scratch and not pathlib.Path(self._config.base).is_dir():
            raise UserError(
                f"there is no base at {self._config.base!r}; give its folder as --config.base,"
                " or --from_scratch to train one"
            )

    def _synthesize(self) -> None:
        if not pathlib.Path(self._mixture).is_file():
            _write_data(self._workdir / "data", self._config.synthesize, self._config.seed)

    def _stage(self, name: str) -> None:
        """Runs one stage, scores what it made and marks it as done."""
        folder, begun = self._workdir / name, time.monotonic()
        resumed = (folder / "config.json").is_file()
        facts = self._make(name, folder)
        loss, rows = None, {}
        if name in (*MODELS, "teacher"):
            loss, rows = self._score(folder)
        trained = facts.pop("trained", {})
        progress.write(
            folder,
            Done(
                name,
                time.monotonic() - begun,
                resumed,
                trained.get("steps", 0),
                trained.get("tokens", 0),
                facts,
                loss,
                rows,
            ),
        )

    def _make(self, name: str, folder: pathlib.Path) -> dict:
        """The work of a stage; what it reports."""
        if name == "base" and self._from_scratch:
            data = self._workdir / "base_data"
            if not (data / "data.json").is_file():
                _write_data(data, "base", self._config.seed)
            return self._train(name, folder, str(data / "data.json"))
        if name in ("base", "teacher"):
            # An import takes moments: what a kill left of one is made anew.
            shutil.rmtree(folder, ignore_errors=True)
            import_hf.import_model(pathlib.Path(self._config[name]), folder)
            return {}
        if name == "convert":
            return convert.convert(self._experiment(name), folder)
        if name == "agent":
            return agent.examine(
                self._last_model(), self._mixture, self._config.agent, folder, self._config.evaluate
            )
        if name == "export":
            out = folder / "model"
            shutil.rmtree(out, ignore_errors=True)
            return export_hf.export_model(self._last_model(), out, "bfloat16", 5.0)
        return self._train(name, folder, self._mixture)

    def _train(self, name: str, folder: pathlib.Path, mixture: str) -> dict:
        result = train.train(self._experiment(name, mixture), folder)
        return {"trained": {"steps": result["steps"], "tokens": result["tokens"]}}

    def _experiment(self, name: str, mixture: str = "") -> ml_collections.ConfigDict:
        """The checked config of a stage, as this recipe changes it."""
        config = config_flag.load(self._experiments / f"{name}.py", self._config.preset)
        config.data.mixture = str(pathlib.Path(mixture or self._mixture).resolve())
        config.run.seed = self._config.seed
        if name in START:
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

    def _score(self, folder: pathlib.Path) -> tuple[float, dict]:
        """Held-out loss and rows of a model, always of the same packs and questions."""
        asked = self._config.evaluate
        model = self._open(folder)
        loss = evaluate.held_out_loss(model, self._experiment("cpt"))
        rows = {
            split: evaluate.evaluate(
                model, split, folder, asked.questions, asked.batch, asked.max_new_tokens
            )["rows"]
            for split in asked.splits
        }
        return loss, rows

    def _open(self, folder: pathlib.Path):
        """A stage's model, told where this recipe's data are and on what it runs."""
        from ivx.build import stored

        model = stored.open_model(folder)
        model.config.data.mixture = self._mixture
        model.config.mesh.update(self._experiment("cpt").mesh)
        return model

    def _last_model(self):
        return self._open(self._workdir / [n for n in self._config.stages if n in MODELS][-1])


def _write_data(out: pathlib.Path, preset: str, seed: int) -> None:
    from data_pipelines.synthetic import presets, write

    write.synthesize(out.resolve(), presets.PRESETS[preset], seed, workers=2)
