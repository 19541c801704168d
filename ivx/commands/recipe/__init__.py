"""`ivx recipe`: runs every stage in a row and shows what came of them."""

import dataclasses
import pathlib

from absl import flags
from ml_collections import config_flags

from ivx.errors import UserError

SUMMARY = "Run the whole recipe: convert, train, reward, distil, agent, export; then the table."
EXAMPLE = """\
  ivx recipe --config=experiments/recipe.py:tiny --workdir=/tmp/ivx/recipe
  ivx recipe --config=experiments/recipe.py:quick --workdir=/tmp/ivx/quick
  ivx recipe --config=experiments/recipe.py:tiny --workdir=/tmp/ivx/seeds --seeds=0,1,2"""
# Its keys are not those of a training run.
OWN_CONFIG = True


def define_flags() -> None:
    config_flags.DEFINE_config_file(
        "config", None, "experiments/recipe.py:preset; --config.section.key=value changes a value."
    )
    flags.DEFINE_string(
        "workdir", "", "Folder of the recipe; a folder for each stage goes into it."
    )
    flags.DEFINE_list(
        "seeds",
        [],
        "Run the recipe with each of these seeds, in folders of the workdir, and write seeds.md:"
        " means and ranges.",
    )
    flags.DEFINE_bool("from_scratch", False, "Train the base model instead of importing it.")


def run(given, words: list[str]) -> dict:
    del words
    from ivx import build
    from ivx.commands.recipe import seeds

    if given.config is None:
        raise UserError("no --config was given; take --config=experiments/recipe.py:tiny")
    path = pathlib.Path(flags.FLAGS["config"].config_filename.split(":")[0])
    if "stages" not in given.config:
        raise UserError(f"--config={path} is no recipe; take experiments/recipe.py")
    config = given.config
    config.from_scratch = config.from_scratch or given.from_scratch
    workdir = build.workdir(given.workdir)
    if not given.seeds:
        return _told(_run(config, path.parent, workdir), workdir)
    places = {seed: workdir / f"seed_{seed}" for seed in seeds.numbers(given.seeds)}
    for seed, folder in places.items():
        config.seed = seed
        _check(config, path.parent, folder)
    outcomes, told = [], []
    for seed, folder in places.items():
        print(f"\n== seed {seed}", flush=True)
        config.seed = seed
        outcomes.append(_run(config, path.parent, folder))
        told.append(_told(outcomes[-1], folder))
    table = seeds.write(workdir, outcomes)
    print(f"\n{table.read_text()}\nmeans and ranges: {table}")
    return {"workdir": str(workdir), "seeds": told, "table": str(table)}


def _check(config, experiments: pathlib.Path, workdir: pathlib.Path):
    """The recipe of a folder, if it can be run there.

    Raises:
      UserError: it cannot.
    """
    from ivx import config as configs
    from ivx.commands.recipe.stages import Recipe

    configs.check_workdir(workdir, config)
    recipe = Recipe(config, experiments, workdir)
    recipe.check()
    return recipe


def _run(config, experiments: pathlib.Path, workdir: pathlib.Path):
    """One recipe: what came of it, printed and drawn."""
    from ivx import config as configs
    from ivx.commands.recipe import outcome, page
    from ivx.commands.recipe.seeds import Outcome

    recipe = _check(config, experiments, workdir)
    configs.claim_workdir(workdir, config)
    if "opd" in config.stages and not config.teacher:
        print("opd is left out: no --config.teacher was given")
    stages, aims, teacher = recipe.run(lambda what: print(f"\n== {what}", flush=True))
    found = Outcome(stages, aims, teacher)
    print("\n" + outcome.render([*stages, *([teacher] if teacher else [])], aims))
    print(f"\nreport: {page.write(workdir, stages, teacher, aims)}")
    for done in stages:
        if "page" in done.facts:
            print(f"a trace: {workdir / done.name / done.facts['page']}")
    return found


def _told(found, workdir: pathlib.Path) -> dict:
    """What the command reports of one recipe."""
    from ivx.commands.recipe import page

    return {
        "workdir": str(workdir),
        "stages": [dataclasses.asdict(done) for done in found.stages],
        "aims": [dataclasses.asdict(aim) for aim in found.aims],
        "report": str(workdir / page.FILE),
    }
