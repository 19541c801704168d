"""`ivx data synthesize`: makes the labelled data set of coloured shapes."""

import pathlib
import time

from absl import flags

from ivx.errors import UserError

SUMMARY = "Make data sets: `ivx data synthesize` writes labelled mp4 files of moving shapes."
EXAMPLE = "  ivx data synthesize --out=/tmp/ivx/data --preset=tiny"
TAKES_WORDS = True
ACTIONS = ("synthesize",)


def define_flags() -> None:
    flags.DEFINE_string("out", "", "Folder to write; must be empty or absent.")
    flags.DEFINE_string(
        "preset", "tiny", "What to write: tiny, base, recipe, recipe_quick, or test for a handful."
    )
    flags.DEFINE_integer("seed", 0, "Seed of the whole data set.", lower_bound=0)
    flags.DEFINE_integer("workers", 2, "Processes that draw and encode.", lower_bound=1)


def run(given, words: list[str]) -> dict:
    from data_pipelines.synthetic import presets, write

    if words != ["synthesize"]:
        raise UserError(
            f"ivx data knows {', '.join(ACTIONS)}, not {' '.join(words) or 'nothing'!r}"
        )
    if not given.out:
        raise UserError(
            "no --out was given; say where the data set is to live, as in --out=/tmp/ivx/data"
        )
    if given.preset not in presets.PRESETS:
        raise UserError(
            f"there is no preset {given.preset!r} of synthetic data;"
            f" there are {', '.join(presets.PRESETS)}"
        )
    start = time.monotonic()
    try:
        counts = write.synthesize(
            pathlib.Path(given.out).resolve(),
            presets.PRESETS[given.preset],
            given.seed,
            given.workers,
        )
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{error}; give an --out that is empty or absent") from error
    seconds = time.monotonic() - start
    samples = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    print(f"wrote {samples} samples to {given.out} in {seconds:.0f} s")
    return {"out": given.out, "samples": counts, "seconds": round(seconds, 1)}
