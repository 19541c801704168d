"""`ivx data inspect`: a page of samples as the model sees them, their lengths, and the packs."""

import pathlib
from typing import Any

from absl import flags

from ivx.commands import config_flag

# Packs are planned for one epoch, but for at most this many steps.
_STEPS = 64


def define_flags() -> None:
    flags.DEFINE_integer("samples", 12, "Samples to show.", lower_bound=1)


def run(args: Any) -> dict:
    """Writes the page.

    Raises:
      UserError: the config or the data cannot be used.
    """
    from ivx import from_config
    from ivx.reporting import data_page

    if args.config is not None:
        # Inspecting data needs no start.
        args.config.run.follows = ""
    config = config_flag.read(args)
    names, shape = tuple(config.data.train), from_config.data.pack_shape(config)
    members = dict(zip(names, from_config.data.members(config, names), strict=True))
    batch = config.data.batch_packs
    tokens = sum(m.measured.sizes.tokens.sum() * m.sample_ratio for m in members.values())
    steps = min(_STEPS, max(1, int(tokens / shape.tokens / batch)))
    plan = from_config.data.plan_from(
        config, list(members.values()), steps * batch, config.data.level
    )
    data = config.data
    facts = {
        "mixture": pathlib.PurePath(data.mixture).name,
        "tokenizer": pathlib.PurePath(data.tokenizer).name,
        "frames": f"{data.fps:g} per second, {data.min_frames} to {data.max_frames}",
        "pixels of a video": f"{data.min_pixels:,} to {data.max_pixels:,}",
        "pack": f"{data.pack_tokens:,} tokens, {data.pack_patches:,} patches",
        "packs per step": f"{batch}",
    }
    rule = from_config.data.layout_rule(config)
    page = data_page.write(pathlib.Path(args.out), facts, members, plan, rule, shape, args.samples)
    print(
        f"page: {page}; {plan.token_fill:.1%} of tokens used in {len(plan.packs):,} packs,"
        f" max / mean pack cost per step {plan.unevenness:.2f}"
    )
    return {
        "page": str(page),
        "packs": len(plan.packs),
        "token_fill": plan.token_fill,
        "patch_fill": plan.patch_fill,
        "unevenness": plan.unevenness,
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
