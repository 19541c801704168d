"""`ivx data prepare`: a mixture written out in shards, for training that opens no loose file."""

import pathlib

from absl import flags

from ivx.errors import UserError


def define_flags() -> None:
    flags.DEFINE_float(
        "proxy",
        0.0,
        "prepare: frames a second of smaller videos in place of the originals, lossy; 0: none.",
        lower_bound=0.0,
    )
    flags.register_validator(
        "proxy", lambda fps: fps == 0 or fps >= 0.1, "--proxy must be 0 or at least 0.1"
    )


def run(given) -> dict:
    """Writes the folder, or what is missing of it.

    Raises:
      UserError: the mixture cannot be used, or the folder holds something else.
    """
    from data_pipelines import sources
    from data_pipelines.prepared import write
    from ivx import build
    from ivx import config as configs

    config = configs.base() if given.config is None else given.config
    # Nothing is trained, so it does not matter what the run would begin with.
    config.run.follows = ""
    configs.validate(config)
    mixture = given.mixture or config.data.mixture
    if not mixture:
        raise UserError("no --mixture was given; name a mixture file, as in --mixture=data.json")
    out = pathlib.Path(given.out)
    how = write.Options(
        workers=given.workers,
        proxy_fps=given.proxy,
        max_bad_samples=config.data.max_bad_samples,
    )
    try:
        names = given.sets or sources.data_set_names(mixture)
        rule = build.layout_rule(config)
        manifest = write.prepare(pathlib.Path(mixture), names, out, rule, how)
    except (sources.AnnotationError, FileExistsError) as error:
        raise UserError(str(error)) from error
    media, data_sets = manifest["media"], manifest["data_sets"]
    for sentence in media["unreadable"]:
        print(f"unreadable: {sentence}")
    for name, facts in data_sets.items():
        left_out = facts["faults"] + facts["left_out"]
        for sentence in left_out:
            print(f"{name}: left out {sentence}")
        found = facts["statistics"]
        print(
            f"{name}: {found['samples']:,} samples in {len(facts['shards'])} shards,"
            f" {len(left_out):,} left out; {found['tokens']:,} tokens, of which"
            f" {found['visual_tokens']:,} visual and {found['trained_tokens']:,} trained;"
            f" half have more than {found['tokens_quantiles']['0.5']:,}, the longest"
            f" {found['longest']:,}"
        )
    if how.proxy_fps:
        print(f"videos are proxies of at most {how.proxy_fps:g} frames a second: lossy")
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
