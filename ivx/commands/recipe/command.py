"""`ivx recipe`: runs all stages in order and compares their scores."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from ivx import folder_lock
from ivx.commands import config_flag
from ivx.errors import UserError, keeping

SUMMARY = "Run the whole recipe, from conversion to export, and compare the stages."
EXAMPLE = """\
  ivx recipe --config=recipe:tiny --workdir=/tmp/ivx/recipe
  ivx recipe --config=recipe:quick --workdir=/tmp/ivx/quick
  ivx recipe --config=recipe:tiny --workdir=/tmp/ivx/seeds --seeds=0,1,2"""
# A recipe has keys of its own.
OWN_CONFIG = True


def define_flags() -> None:
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Recipe and preset, such as recipe:tiny; --config.section.key=value changes a value.",
    )
    flags.DEFINE_string("workdir", "", "Folder of the recipe, with a folder for each stage.")
    flags.DEFINE_list(
        "seeds",
        [],
        "Run the recipe once per seed, in folders of the workdir, and write means and ranges to"
        " seeds.md.",
    )
    config_flag.define_accept_data_change()
    flags.DEFINE_bool("from_scratch", False, "Train the base model instead of importing it.")


def run(args: Any, words: list[str]) -> dict:
    del words
    from ivx import workdir as workdirs

    if args.config is None:
        raise UserError("no --config was given; name a recipe, as in --config=recipe:tiny")
    path = pathlib.Path(flags.FLAGS["config"].config_filename.split(":")[0])
    config = args.config
    config.from_scratch = config.from_scratch or args.from_scratch
    workdir = workdirs.parse(args.workdir)
    with folder_lock.inside(workdir), keeping(f"{workdir} keeps the stages that are complete"):
        if args.seeds:
            return _run_seeds(config, path.parent, workdir, args.seeds, args.accept_data_change)
        return _summary(_run(config, path.parent, workdir, args.accept_data_change), workdir)


def _run_seeds(
    config: ml_collections.ConfigDict,
    experiments: pathlib.Path,
    workdir: pathlib.Path,
    numbers: Sequence[str],
    accept_data_change: bool,
) -> dict:
    """Runs the recipe once per seed, and writes the table."""
    from ivx.reporting.recipe import seeds

    folders = {seed: workdir / f"seed_{seed}" for seed in seed_numbers(numbers)}
    for seed, folder in folders.items():
        config.seed = seed
        _checked(config, experiments, folder)
    outcomes, summaries = [], []
    for seed, folder in folders.items():
        print(f"\n== seed {seed}", flush=True)
        config.seed = seed
        outcomes.append(_run(config, experiments, folder, accept_data_change))
        summaries.append(_summary(outcomes[-1], folder))
    table = seeds.write(workdir, outcomes)
    print(f"\n{table.read_text()}\nmeans and ranges: {table}")
    return {"workdir": str(workdir), "seeds": summaries, "table": str(table)}


def seed_numbers(seeds: Sequence[str]) -> list[int]:
    """The seeds of --seeds as numbers.

    Raises:
      UserError: one is not a non-negative integer, or is given twice.
    """
    if not all(map(str.isdecimal, seeds)) or len(set(map(int, seeds))) < len(seeds):
        raise UserError(f"--seeds={','.join(seeds)}: expected different numbers, as in 0,1,2")
    return [int(text) for text in seeds]


def _checked(
    config: ml_collections.ConfigDict,
    experiments: pathlib.Path,
    workdir: pathlib.Path,
    accept_data_change: bool = False,
) -> Any:
    """The `ivx.commands.recipe.stages.Recipe` of a folder.

    Raises:
      UserError: the recipe cannot run there.
    """
    from ivx import workdir as workdirs
    from ivx.commands.recipe.stages import Recipe

    workdirs.check(workdir, config)
    recipe = Recipe(config, experiments, workdir, accept_data_change)
    recipe.check()
    return recipe


def _run(
    config: ml_collections.ConfigDict,
    experiments: pathlib.Path,
    workdir: pathlib.Path,
    accept_data_change: bool,
) -> Any:
    """Runs one recipe and prints its table; returns an `ivx.reporting.recipe.seeds.Outcome`."""
    from ivx import workdir as workdirs
    from ivx.reporting.recipe import aims, page
    from ivx.reporting.recipe.seeds import Outcome

    recipe = _checked(config, experiments, workdir, accept_data_change)
    workdirs.claim(workdir, config)
    if "opd" in config.stages and not config.teacher:
        print("opd is left out: no --config.teacher was given")
    stages, results, teacher = recipe.run(lambda title: print(f"\n== {title}", flush=True))
    print("\n" + aims.render([*stages, *([teacher] if teacher else [])], results))
    few = recipe.has_few_steps()
    if few:
        print(f"\n{page.FEW_STEPS}")
    print(f"\nreport: {page.write(workdir, stages, teacher, results, few)}")
    for stage in stages:
        if "page" in stage.facts:
            print(f"trace: {workdir / stage.name / stage.facts['page']}")
    return Outcome(stages, results, teacher)


def _summary(outcome: Any, workdir: pathlib.Path) -> dict:
    """The JSON result of one recipe."""
    from ivx.reporting.recipe import page

    return {
        "workdir": str(workdir),
        "stages": [dataclasses.asdict(stage) for stage in outcome.stages],
        "aims": [dataclasses.asdict(aim) for aim in outcome.aims],
        "report": str(workdir / page.FILE),
    }
