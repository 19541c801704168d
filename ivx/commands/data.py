"""`ivx data`: makes, checks, prepares and inspects data sets."""

import pathlib
import shutil
import time
from typing import Any

from absl import flags

from ivx import config as configs
from ivx.commands import config_flag, data_inspect, data_prepare
from ivx.errors import UserError

SUMMARY = "Make, check, prepare and inspect data sets."
EXAMPLE = """\
  ivx data synthesize --out=/tmp/ivx/data --preset=tiny
  ivx data check --mixture=/tmp/ivx/data/data.json
  ivx data check --mixture=mine.json --sets=mine --config=sft_long:8b --json
  ivx data prepare --config=sft_short:tiny --mixture=/tmp/ivx/data/data.json \\
      --out=/tmp/ivx/prepared
  ivx data check --mixture=/tmp/ivx/prepared/data.json      (also verifies checksums)
  ivx data inspect --config=sft_short:tiny --out=/tmp/ivx/page \\
      --config.data.mixture=/tmp/ivx/data/data.json
  ivx data tfds --builder=synthetic --source=/tmp/ivx/data --out=/tmp/ivx/tfds
  ivx data tfds --builder=internvideo3 --source=rows.parquet --media_root=videos \\
      --out=/tmp/ivx/tfds --fields=video=video_id,question=question,answer=answer
  ivx data tokenizer --out=/tmp/ivx/qwen3      (needs: pip install 'ivx[qwen]')"""
TAKES_WORDS = True
ACTIONS = ("synthesize", "check", "prepare", "inspect", "tfds", "tokenizer")


def define_flags() -> None:
    flags.DEFINE_string(
        "out",
        "",
        "Folder to write. For synthesize and tokenizer it must be empty or absent.",
    )
    flags.DEFINE_string(
        "preset", "tiny", "synthesize: tiny, base, recipe, recipe_quick, or test (a few clips)."
    )
    flags.DEFINE_integer("seed", 0, "synthesize: seed of the data set.", lower_bound=0)
    flags.DEFINE_string("mixture", "", "check, prepare: the mixture file.")
    flags.DEFINE_list("sets", [], "check, prepare: data sets of the mixture; default: all.")
    flags.DEFINE_string("builder", "", "tfds: synthetic or internvideo3.")
    flags.DEFINE_string("source", "", "tfds: folder of the synthetic set, or annotation file.")
    flags.DEFINE_string("media_root", "", "tfds: folder of the videos, which are not copied.")
    flags.DEFINE_list("fields", [], "tfds: columns of internvideo3, as video=video_id,...")
    flags.DEFINE_integer(
        "workers", 2, "Processes of synthesize and prepare; threads of check.", lower_bound=1
    )
    config_flag.define_config()
    data_prepare.define_flags()
    data_inspect.define_flags()


def run(args: Any, words: list[str]) -> dict:
    if len(words) != 1 or words[0] not in ACTIONS:
        wrong = f"; it has no action {' '.join(words)!r}" if words else ""
        raise UserError(f"ivx data needs one of {', '.join(ACTIONS)}{wrong}")
    if words == ["check"]:
        return _check(args)
    if not args.out:
        raise UserError("no --out was given; name the folder to write, as in --out=/tmp/ivx/data")
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

    if args.preset not in presets.PRESETS:
        raise UserError(
            f"synthetic data has no preset {args.preset!r}; presets are"
            f" {', '.join(presets.PRESETS)}"
        )
    start = time.monotonic()
    try:
        counts = write.synthesize(
            pathlib.Path(args.out).resolve(), presets.PRESETS[args.preset], args.seed, args.workers
        )
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{error}; give an --out that is empty or absent") from error
    seconds = time.monotonic() - start
    samples = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    print(f"wrote {samples} samples to {args.out} in {seconds:.0f} s")
    return {"out": args.out, "samples": counts, "seconds": round(seconds, 1)}
