"""`ivx agent`: has the agent answer a question about a video, and shows how it came to it."""

import pathlib

from absl import flags

from ivx.errors import UserError

SUMMARY = "Answer a question about a long video step by step, citing what was looked at."
EXAMPLE = """\
  ivx agent --workdir=/tmp/ivx/sft --video=film.mp4 --out=/tmp/ivx/found \\
      --question="What appears once in the video?\""""


def define_flags() -> None:
    flags.DEFINE_string("workdir", "", "A run, or a Hugging Face folder, whose model acts.")
    flags.DEFINE_string("video", "", "The video file.")
    flags.DEFINE_string("question", "", "What is asked about it.")
    flags.DEFINE_string("out", "", "Folder for trace.jsonl and trace.html.")
    flags.DEFINE_integer("max_steps", 8, "Turns of the model; the last has to answer.", 1)
    flags.DEFINE_integer("max_frames", 64, "Frames in the context, the overview's included.", 2)
    flags.DEFINE_integer("max_tokens", 16384, "Tokens of the context.", 1)
    flags.DEFINE_float("max_seconds", 600.0, "Seconds after which the next turn is the last.", 0.0)
    flags.DEFINE_integer("max_new_tokens", 128, "Tokens that a turn may have.", 1)
    flags.DEFINE_integer("overview_frames", 8, "Frames of the first look at the whole video.", 2)
    flags.DEFINE_float("shot_seconds", 6.0, "Length of the shots that are labelled.", 0.5)
    flags.DEFINE_float("dense_fps", 2.0, "Frames a second of a span that is inspected.", 0.01)
    flags.DEFINE_integer("dense_frames", 12, "Most frames of a span that is inspected.", 2)
    flags.DEFINE_bool("enable_thinking", None, "Begin every turn with a thought, or an empty one.")
    flags.DEFINE_integer("batch", 16, "Shots labelled at a time.", 1)


def run(given, words: list[str]) -> dict:
    del words
    for name in ("video", "question", "out"):
        if not getattr(given, name):
            raise UserError(f"no --{name} was given; `ivx agent --help` shows an example")
    out = pathlib.Path(given.out)
    if out.is_file():
        raise UserError(f"--out={out} is a file; give a folder")

    from data_pipelines.media_error import MediaError
    from data_pipelines.video import decode
    from data_pipelines.views import Footage, Looks
    from ivx import build
    from ivx.agent import loop, trace
    from ivx.agent.asker import ModelAsker
    from ivx.agent.budget import Budget
    from ivx.build import stored
    from ivx.parallel import start
    from ivx.reporting import trace_page

    video = pathlib.Path(given.video).resolve()
    try:
        footage = Footage(video.name, decode.probe(video))
    except MediaError as error:
        raise UserError(str(error)) from error
    budget = Budget(given.max_steps, given.max_frames, given.max_tokens, given.max_seconds)
    looks = Looks(
        overview_frames=given.overview_frames,
        shot_seconds=given.shot_seconds,
        dense_fps=given.dense_fps,
        dense_frames=given.dense_frames,
    )
    model = stored.open_model(build.workdir(given.workdir))
    start.start(cpu_devices=0)
    rule, (sampler, _) = build.layout_rule(model.config), build.sampler(model)
    asker = ModelAsker(
        rule, sampler, video.parent, given.max_new_tokens, given.batch, given.enable_thinking
    )
    episode = loop.run(asker, footage, given.question, budget=budget, looks=looks, video=str(video))

    out.mkdir(parents=True, exist_ok=True)
    trace.write(out / trace.FILE, episode)
    page = trace_page.write(out, episode)
    cited = [_citation(name, episode) for name in episode.answer.evidence]
    print(f"Q: {given.question}\nA: {episode.answer.text or '(none)'}")
    for citation in cited:
        print("   {id}: {start:.1f} to {end:.1f} seconds, {what}".format(**citation))
    ended = f" at the limit of {episode.answer.forced}" if episode.answer.forced else ""
    print(f"steps: {episode.steps}{ended}; trace: {out / trace.FILE}, page: {page}")
    return {
        "answer": episode.answer.text,
        "evidence": cited,
        "steps": episode.steps,
        "forced": episode.answer.forced,
        "trace": str(out / trace.FILE),
        "page": str(page),
    }


def _citation(name: str, episode) -> dict:
    from ivx.agent.context import Observation

    event = episode.evidence[name]
    what = "inspected" if isinstance(event, Observation) else f"labelled {event.text!r}"
    return {"id": name, "start": event.span[0], "end": event.span[1], "what": what}
