"""`ivx data prepare`: writes a mixture as shards, so that training opens no loose files."""

import pathlib
from typing import Any

from absl import flags

from ivx.commands import config_flag
from ivx.errors import UserError


def define_flags() -> None:
    flags.DEFINE_float(
        "proxy",
        0.0,
        "Frames per second of lossy proxy videos that replace the originals; 0: none.",
        lower_bound=0.0,
    )
    flags.register_validator(
        "proxy", lambda fps: fps == 0 or fps >= 0.1, "--proxy must be 0 or at least 0.1"
    )


def run(args: Any) -> dict:
    """Writes the folder, or the missing part of it.

    Raises:
      UserError: the mixture cannot be used, or the folder holds other data.
    """
    from data_pipelines import sources
    from data_pipelines.prepared import write
    from ivx import config as configs
    from ivx import from_config

    config = configs.base() if args.config is None else args.config
    config_flag.check_without_start(config)
    mixture = args.mixture or config.data.mixture
    if not mixture:
        raise UserError("no --mixture was given; name a mixture file, as in --mixture=data.json")
    out = pathlib.Path(args.out)
    options = write.Options(
        workers=args.workers,
        proxy_fps=args.proxy,
        max_bad_samples=config.data.max_bad_samples,
    )
    try:
        names = args.sets or sources.data_set_names(mixture)
        rule = from_config.data.layout_rule(config)
        manifest = write.prepare(pathlib.Path(mixture), names, out, rule, options)
    except (sources.AnnotationError, FileExistsError) as error:
        raise UserError(str(error)) from error
    media, data_sets = manifest["media"], manifest["data_sets"]
    for sentence in media["unreadable"]:
        print(f"unreadable: {sentence}")
    for name, facts in data_sets.items():
        left_out = facts["faults"] + facts["left_out"]
        for sentence in left_out:
            print(f"{name}: left out {sentence}")
        summary = facts["statistics"]
        print(
            f"{name}: {summary['samples']:,} samples in {len(facts['shards'])} shards,"
            f" {len(left_out):,} left out; {summary['tokens']:,} tokens, of which"
            f" {summary['visual_tokens']:,} visual and {summary['trained_tokens']:,} trained;"
            f" median {summary['tokens_quantiles']['0.5']:,}, longest {summary['longest']:,}"
        )
    if options.proxy_fps:
        print(f"videos are lossy proxies of at most {options.proxy_fps:g} frames per second")
    print(
        f"wrote {media['files']:,} files, {media['bytes'] / 2**20:,.1f} MiB, to {out}; train with"
        f" --config.data.mixture={out / 'data.json'}"
    )
    return {
        "out": str(out),
        "files": media["files"],
        "unreadable": len(media["unreadable"]),
        "bytes": media["bytes"],
        "data_sets": {
            name: facts["statistics"] | {"left_out": len(facts["faults"] + facts["left_out"])}
            for name, facts in data_sets.items()
        },
    }
