"""`ivx compile`: compiles a training step for TPUs without a TPU, and reports memory and time."""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import flags

from ivx.commands import config_flag
from ivx.commands.compile import step, step_page
from ivx.errors import UserError

SUMMARY = "Compile a step for a TPU slice without having one: memory, time, advice."
EXAMPLE = (
    "  make libtpu\n"
    "  ivx compile --config=cpt --topology=v5p:4x4x4 --mesh=fsdp:64\n"
    "  ivx compile --config=sft_long --topology=v6e:16x16 --search\n"
    "  ivx compile --config=rl_gspo --topology=v6e:16x16 --mesh=fsdp:32,context:8 --part=decode"
)


def define_flags() -> None:
    config_flag.define_config()
    flags.DEFINE_float("timeout", 3600.0, "Seconds that one compilation may take.", lower_bound=1.0)
    flags.DEFINE_string("out", None, "Markdown file for the report.")
    flags.DEFINE_string("topology", "", "Chips of a slice, such as v6e:16x16.")
    flags.DEFINE_list("mesh", [], "Sizes of mesh axes, such as fsdp:8,context:32.")
    flags.DEFINE_bool(
        "search", False, "Try meshes, micro-batches and remat policies, and rank those that fit."
    )
    flags.DEFINE_integer("tries", 4, "Settings that --search compiles.", 1)
    step.define_compile_flags()


def run(args: Any, words: Sequence[str] = ()) -> dict:
    del words
    from ivx.aot import topology

    config = _config(args)
    if not args.topology:
        raise UserError("no --topology was given; name a slice, as in --topology=v6e:16x16")
    topology.parse(args.topology)
    if args.search and args.part:
        raise UserError("--search ranks whole steps; leave out --search or --part")
    if args.search:
        from ivx.commands.compile import search

        return search.run(config, args.topology, args.tries, step.options_of(args))
    result = step.compile_step(config, args.topology, step.options_of(args))
    page = "\n".join(step_page.lines(result))
    print(page)
    if args.out:
        pathlib.Path(args.out).write_text(page + "\n")
    return result


def _config(args: Any) -> ml_collections.ConfigDict:
    """The checked config with --mesh; compiling needs neither data nor a start."""
    if args.config is not None:
        for size in args.mesh:
            match = re.fullmatch(r"(\w+):(-?\d+)", size)
            if not match or match[1] not in args.config.mesh:
                raise UserError(
                    f"--mesh={size}: expected axis:size with replica, fsdp, tensor or context,"
                    " as in fsdp:8,context:32"
                )
            args.config.mesh[match[1]] = int(match[2])
    return config_flag.read_without_data(args)
