"""`ivx data inspect`: a page of samples as the model sees them, of lengths and packs."""

import pathlib

from absl import flags

from ivx.commands import config_flag

# Packs are planned for a round over the data, or for this many steps if that is more.
_STEPS = 64


def define_flags() -> None:
    flags.DEFINE_integer("samples", 12, "inspect: samples to show.", lower_bound=1)


def run(given) -> dict:
    """Writes the page.

    Raises:
      UserError: the config or the data cannot be used.
    """
    from ivx import build
    from ivx.reporting import data_page

    if given.config is not None:
        # Data may be looked at before there is anything to go on from.
        given.config.run.follows = ""
    config = config_flag.read(given)
    names, shape = tuple(config.data.train), build.pack_shape(config)
    members = dict(zip(names, build.members(config, names), strict=True))
    batch = config.data.batch_packs
    drawn = sum(m.measured.sizes.tokens.sum() * m.sample_ratio for m in members.values())
    steps = min(_STEPS, max(1, int(drawn / shape.tokens / batch)))
    planned = build.plan_from(config, list(members.values()), steps * batch, config.data.level)
    data = config.data
    facts = {
        "mixture": data.mixture,
        "tokenizer": pathlib.PurePath(data.tokenizer).name,
        "frames": f"{data.fps:g} a second, {data.min_frames} to {data.max_frames}",
        "pixels of a video": f"{data.min_pixels:,} to {data.max_pixels:,}",
        "pack": f"{data.pack_tokens:,} tokens, {data.pack_patches:,} patches",
        "packs a step": f"{batch}",
    }
    rule = build.layout_rule(config)
    page = data_page.write(
        pathlib.Path(given.out), facts, members, planned, rule, shape, given.samples
    )
    print(
        f"page: {page}; {planned.token_fill:.1%} of tokens used in {len(planned.packs):,} packs,"
        f" the dearest of a step {planned.unevenness:.2f} times the mean"
    )
    return {
        "page": str(page),
        "packs": len(planned.packs),
        "token_fill": planned.token_fill,
        "patch_fill": planned.patch_fill,
        "unevenness": planned.unevenness,
        "data_sets": {
            name: {
                "samples": len(member.measured.sizes),
                "left_out": len(member.measured.dropped),
                "left_out_tokens": member.measured.dropped_tokens,
                "tokens": int(member.measured.sizes.tokens.sum()),
            }
            for name, member in members.items()
        },
    }
