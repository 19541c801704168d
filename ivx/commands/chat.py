"""`ivx chat`: answers questions about a video, images, or both."""

from collections.abc import Iterator
from typing import Any

from absl import flags

from ivx.errors import UserError

SUMMARY = "Ask questions about a video or image file."
EXAMPLE = """\
  ivx chat --video=clip.mp4 --question="What colour is the shape?"
  ivx chat --workdir=/tmp/ivx/sft --video=clip.mp4 --question="What colour is the shape?"
  ivx chat --workdir=/tmp/ivx/sft --image=a.jpg --image=b.png --question="What differs?"
  ivx chat --workdir=/tmp/ivx/sft --video=clip.mp4        (prompts for questions)"""


def define_flags() -> None:
    flags.DEFINE_string(
        "workdir",
        "tiny-base",
        "Workdir of a run, whose newest checkpoint answers, or Hugging Face folder. By default a"
        " bundled model of 4.4 M parameters, which knows coloured shapes and little else.",
    )
    flags.DEFINE_string("video", "", "The video file.")
    flags.DEFINE_multi_string(
        "image", [], "An image file; may be repeated, and combined with --video."
    )
    flags.DEFINE_multi_string(
        "question", [], "A question; may be repeated. Without it, questions are read from input."
    )
    flags.DEFINE_bool(
        "enable_thinking", None, "Open a thought before the answer, or (--no...) an empty one."
    )
    flags.DEFINE_integer("max_new_tokens", 64, "Longest answer, in tokens.", lower_bound=1)


def run(args: Any, words: list[str]) -> dict:
    del words
    if not args.video and not args.image:
        raise UserError("no --video and no --image was given; name a file, as in --video=clip.mp4")

    from ivx import bundled, from_config
    from ivx import workdir as workdirs
    from ivx.parallel import devices
    from ivx.text import thinking

    model = from_config.stored_model.open_model(workdirs.parse(args.workdir))
    devices.configure_devices(cpu_devices=0)
    assistant = from_config.inference.assistant(model)
    video = str(bundled.find(args.video)) if args.video else ""
    for clip in assistant.look(video, images=args.image).clips:
        source = f"{clip.info.width}x{clip.info.height} pixels"
        if not clip.still:
            source = f"{len(clip.indices)} of {clip.info.num_frames} frames"
        print(f"{clip.path}: {source}, seen at {clip.width}x{clip.height} pixels")
    answers = []
    for question in args.question or _typed_questions():
        text = assistant.generate(
            video, question, args.max_new_tokens, args.enable_thinking, args.image
        )
        turn = thinking.whole_turn(text, args.enable_thinking)
        thought, answer = thinking.separate(turn)
        print(f"Q: {question}")
        if thought:
            print(f"(thought) {thought}")
        print(f"A: {answer}")
        answers.append({"question": question, "thought": thought, "answer": answer})
    return {"video": args.video, "images": args.image, "answers": answers}


def _typed_questions() -> Iterator[str]:
    """Questions from standard input, until an empty line or the end."""
    while True:
        try:
            question = input("question (empty to end): ").strip()
        except EOFError:
            return
        if not question:
            return
        yield question
