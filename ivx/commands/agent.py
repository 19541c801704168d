"""`ivx agent`: answers a question about a video step by step, and writes the trace."""

import pathlib
from typing import Any

from absl import flags

from ivx.commands import memory_check
from ivx.errors import UserError

SUMMARY = "Answer a question about a long video step by step, with evidence."
EXAMPLE = """\
  ivx agent --workdir=/tmp/ivx/sft --video=film.mp4 --out=/tmp/ivx/trace \\
      --question="What appears once in the video?\""""


def define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Workdir of a run, or Hugging Face folder.")
    flags.DEFINE_string("video", "", "The video file.")
    flags.DEFINE_string("question", "", "The question about the video.")
    flags.DEFINE_string("out", "", "Folder for trace.jsonl and trace.html.")
    flags.DEFINE_integer("max_steps", 8, "Turns of the model; it must answer in the last.", 1)
    flags.DEFINE_integer("max_frames", 64, "Frames in the context, including the overview.", 2)
    flags.DEFINE_integer("max_tokens", 16384, "Tokens of the context.", 1)
    flags.DEFINE_float("max_seconds", 600.0, "Seconds after which the next turn is the last.", 0.0)
    flags.DEFINE_integer("max_new_tokens", 128, "Longest turn, in tokens.", 1)
    flags.DEFINE_integer("overview_frames", 8, "Frames of the overview of the whole video.", 2)
    flags.DEFINE_float("shot_seconds", 6.0, "Length of a labelled shot, in seconds.", 0.5)
    flags.DEFINE_float("dense_fps", 2.0, "Frames per second of an inspected span.", 0.01)
    flags.DEFINE_integer("dense_frames", 12, "Maximum number of frames of an inspected span.", 2)
    flags.DEFINE_bool("enable_thinking", None, "Begin every turn with a thought, or an empty one.")
    flags.DEFINE_integer("batch", 16, "Shots labelled at a time.", 1)
    memory_check.define()


def run(args: Any, words: list[str]) -> dict:
    del words
    for name in ("video", "question", "out"):
        if not getattr(args, name):
            raise UserError(f"no --{name} was given; `ivx agent --help` shows an example")
    out = pathlib.Path(args.out)
    if out.is_file():
        raise UserError(f"--out={out} is a file; give a folder")

    from data_pipelines.media_error import MediaError
    from data_pipelines.video import decode
    from data_pipelines.views import VideoFile, ViewConfig
    from ivx import from_config
    from ivx import workdir as workdirs
    from ivx.agent import loop, trace
    from ivx.agent.budget import Budget
    from ivx.agent.chat_model import SampledChatModel
    from ivx.parallel import devices
    from ivx.reporting import trace_page

    video = pathlib.Path(args.video).resolve()
    try:
        video_file = VideoFile(video.name, decode.probe(video))
    except MediaError as error:
        raise UserError(str(error)) from error
    budget = Budget(args.max_steps, args.max_frames, args.max_tokens, args.max_seconds)
    view_config = ViewConfig(
        overview_frames=args.overview_frames,
        shot_seconds=args.shot_seconds,
        dense_fps=args.dense_fps,
        dense_frames=args.dense_frames,
    )
    model = from_config.stored_model.open_model(workdirs.parse(args.workdir))
    devices.configure_devices(cpu_devices=0)
    memory_check.check(from_config.memory_forecast.answering(model), args.ignore_memory_forecast)
    rule = from_config.data.layout_rule(model.config)
    sampler, _ = from_config.inference.sampler(model)
    asker = SampledChatModel(
        rule, sampler, video.parent, args.max_new_tokens, args.batch, args.enable_thinking
    )
    episode = loop.run(
        asker, video_file, args.question, budget=budget, view_config=view_config, video=str(video)
    )

    out.mkdir(parents=True, exist_ok=True)
    trace.write(out / trace.FILE, episode)
    page = trace_page.write(out, episode)
    citations = [_citation(name, episode) for name in episode.answer.evidence]
    print(f"Q: {args.question}\nA: {episode.answer.text or '(none)'}")
    for citation in citations:
        print("   {id}: {start:.1f} to {end:.1f} seconds, {what}".format(**citation))
    limit = f" at the limit of {episode.answer.forced}" if episode.answer.forced else ""
    print(f"steps: {episode.steps}{limit}; trace: {out / trace.FILE}, page: {page}")
    return {
        "answer": episode.answer.text,
        "evidence": citations,
        "steps": episode.steps,
        "forced": episode.answer.forced,
        "trace": str(out / trace.FILE),
        "page": str(page),
    }


def _citation(name: str, episode: Any) -> dict:
    """A piece of evidence of an `ivx.agent.context.Episode`, as JSON."""
    from ivx.agent.context import Observation

    event = episode.evidence[name]
    what = "inspected" if isinstance(event, Observation) else f"labelled {event.text!r}"
    return {"id": name, "start": event.span[0], "end": event.span[1], "what": what}
