"""`ivx data`: makes, checks, prepares and inspects data sets."""

import pathlib
import shutil
import time
from typing import Any

from absl import flags

from ivx import config as configs
from ivx import folder_lock
from ivx.commands import config_flag, data_inspect, data_prepare
from ivx.errors import UserError, keeping
from ivx.help_page import Action
from ivx.suggestion import did_you_mean

SUMMARY = "Make, check, prepare and inspect data sets."
EXAMPLE = """\
  ivx data synthesize --out=/tmp/ivx/data --preset=tiny
  ivx data check --mixture=/tmp/ivx/data/data.json"""
ACTIONS = {
    "synthesize": Action(
        "Write synthetic videos with questions, and the mixture file that names them.",
        "  ivx data synthesize --out=/tmp/ivx/data --preset=tiny",
        ("out", "preset", "seed", "workers"),
    ),
    "check": Action(
        "List every fault of the annotations and media of a mixture.",
        """\
  ivx data check --mixture=/tmp/ivx/data/data.json
  ivx data check --mixture=mine.json --sets=mine --config=sft_long:8b --json
  ivx data check --mixture=/tmp/ivx/prepared/data.json      (also verifies checksums)""",
        ("mixture", "sets", "config", "workers"),
    ),
    "prepare": Action(
        "Write a mixture as shards, so that training opens no loose files.",
        """\
  ivx data prepare --config=sft_short:tiny --mixture=/tmp/ivx/data/data.json \\
      --out=/tmp/ivx/prepared""",
        ("mixture", "out", "config", "sets", "proxy", "workers"),
    ),
    "inspect": Action(
        "Write a page of samples as the model sees them, their lengths, and the packs.",
        """\
  ivx data inspect --config=sft_short:tiny --out=/tmp/ivx/page \\
      --config.data.mixture=/tmp/ivx/data/data.json""",
        ("config", "out", "samples"),
    ),
    "tfds": Action(
        "Build a TensorFlow Datasets data set.",
        """\
  ivx data tfds --builder=synthetic --source=/tmp/ivx/data --out=/tmp/ivx/tfds
  ivx data tfds --builder=internvideo3 --source=rows.parquet --media_root=videos \\
      --out=/tmp/ivx/tfds --fields=video=video_id,question=question,answer=answer""",
        ("builder", "source", "out", "media_root", "fields"),
    ),
    "tokenizer": Action(
        "Write the tokenizer of Qwen3.",
        "  ivx data tokenizer --out=/tmp/ivx/qwen3      (needs: pip install 'ivx[qwen]')",
        ("out",),
    ),
}
TAKES_WORDS = True


def define_flags() -> None:
    flags.DEFINE_string(
        "out",
        "",
        "Folder to write. For synthesize and tokenizer it must be empty or absent.",
    )
    flags.DEFINE_string(
        "preset", "tiny", "tiny, base, recipe, recipe_quick, demo, or test (a few clips)."
    )
    flags.DEFINE_integer("seed", 0, "Seed of the data set.", lower_bound=0)
    flags.DEFINE_string("mixture", "", "The mixture file.")
    flags.DEFINE_list("sets", [], "Data sets of the mixture; default: all.")
    flags.DEFINE_string("builder", "", "Builder: synthetic or internvideo3.")
    flags.DEFINE_string("source", "", "Folder of the synthetic set, or annotation file.")
    flags.DEFINE_string("media_root", "", "Folder of the videos, which are not copied.")
    flags.DEFINE_list("fields", [], "Columns of internvideo3, as video=video_id,...")
    flags.DEFINE_integer(
        "workers", 2, "Processes of synthesize and prepare; threads of check.", lower_bound=1
    )
    config_flag.define_config()
    data_prepare.define_flags()
    data_inspect.define_flags()


def run(args: Any, words: list[str]) -> dict:
    if len(words) > 1 and words[0] in ACTIONS:
        raise UserError(
            f"ivx data {words[0]} does not understand {words[1]!r}; flags have names, see"
            f" `ivx data {words[0]} --help`"
        )
    if len(words) != 1 or words[0] not in ACTIONS:
        wrong = f"; it has no action {' '.join(words)!r}" if words else ""
        hint = did_you_mean(words[0], ACTIONS) if words else ""
        raise UserError(f"ivx data needs one of {', '.join(ACTIONS)}{wrong}{hint}")
    if words == ["check"]:
        return _check(args)
    if not args.out:
        raise UserError("no --out was given; name the folder to write, as in --out=/tmp/ivx/data")
    # The folders of these two appear complete.
    lock = folder_lock.beside if words[0] in ("synthesize", "tokenizer") else folder_lock.inside
    kept = "complete shards are kept in" if words == ["prepare"] else "nothing was written to"
    with lock(pathlib.Path(args.out)), keeping(f"{kept} {args.out}"):
        return _write(args, words)


def _write(args: Any, words: list[str]) -> dict:
    if words == ["tfds"]:
        from ivx.commands import data_tfds

        return data_tfds.build(args.builder, args.source, args.out, args.media_root, args.fields)
    if words == ["tokenizer"]:
        return write_tokenizer(pathlib.Path(args.out))
    if words == ["inspect"]:
        return data_inspect.run(args)
    return data_prepare.run(args) if words == ["prepare"] else _synthesize(args)


def _check(args: Any) -> dict:
    """Checks a mixture with the layout of --config, or the default layout."""
    from ivx.commands import data_check

    config = configs.base() if args.config is None else args.config
    config_flag.check_without_start(config)
    path = args.mixture or config.data.mixture
    if not path:
        raise UserError("no --mixture was given; name a mixture file, as in --mixture=data.json")
    return data_check.check(path, tuple(args.sets), config, args.workers)


def write_tokenizer(out: pathlib.Path) -> dict:
    """Writes the tokenizer that configs call `qwen3`: tokenizer.json and tokenizer_config.json.

    Raises:
      UserError: the folder is not empty, or no installed package has the vocabulary.
    """
    from ivx.hf import json_file, text_files, write
    from ivx.text import tokenizer

    write.check_free(out)
    try:
        path, words = tokenizer.find(tokenizer.QWEN), tokenizer.load(tokenizer.QWEN)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from error
    out.mkdir(parents=True, exist_ok=True)
    json_file.write(out / "tokenizer_config.json", text_files.tokenizer_config(words))
    # tokenizer.json is written last, so that a folder with one is complete.
    shutil.copyfile(path, out / "tokenizer.json")
    print(f"wrote the tokenizer of Qwen3, {words.vocab_size:,} tokens, to {out}")
    return {"out": str(out), "tokens": words.vocab_size}


def _synthesize(args: Any) -> dict:
    from data_pipelines.synthetic import presets, write
    from ivx.hf import write as folders

    if args.preset not in presets.PRESETS:
        raise UserError(
            f"synthetic data has no preset {args.preset!r}; presets are"
            f" {', '.join(presets.PRESETS)}{did_you_mean(args.preset, presets.PRESETS)}"
        )
    start = time.monotonic()
    out = pathlib.Path(args.out)
    folders.check_free(out)
    counts = write.synthesize(out.resolve(), presets.PRESETS[args.preset], args.seed, args.workers)
    seconds = time.monotonic() - start
    samples = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    print(f"wrote {samples} samples to {args.out} in {seconds:.0f} s")
    return {"out": args.out, "samples": counts, "seconds": round(seconds, 1)}
