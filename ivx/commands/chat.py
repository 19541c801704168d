"""`ivx chat`: answers questions about a video, images, both, or neither."""

from collections.abc import Iterator
from typing import Any

from absl import flags

from ivx.commands import memory_check
from ivx.errors import UserError

SUMMARY = "Ask questions about a video or images, or without either."
EXAMPLE = """\
  ivx chat --video=clip.mp4 --question="What colour is the shape?"
  ivx chat --workdir=/tmp/ivx/sft --video=clip.mp4 --question="What colour is the shape?"
  ivx chat --workdir=/tmp/ivx/sft --image=a.jpg --image=b.png --question="What differs?"
  ivx chat --workdir=/tmp/ivx/sft --video=clip.mp4        (prompts for questions)
  ivx chat --workdir=/tmp/ivx/sft --question="Hello?"     (text alone)"""


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
    flags.DEFINE_enum(
        "dtype",
        "auto",
        ["auto", "float32", "bfloat16"],
        "Dtype of weights and computation. auto: that of the model; on a CPU float32, which is"
        " faster there, unless only bfloat16 fits into memory.",
    )
    flags.DEFINE_integer("max_new_tokens", 64, "Longest answer, in tokens.", lower_bound=1)
    memory_check.define()


def run(args: Any, words: list[str]) -> dict:
    del words
    from ivx import bundled, from_config
    from ivx import workdir as workdirs
    from ivx.parallel import devices
    from ivx.text import thinking

    model = from_config.stored_model.open_model(workdirs.parse(args.workdir))
    devices.configure_devices(cpu_devices=0)
    model = from_config.stored_model.with_dtype(model, args.dtype)
    memory_check.check(
        from_config.memory_forecast.answering(model),
        args.ignore_memory_forecast,
        lambda sizes: memory_check.dtype_knobs(model.definition.spec.dtype),
    )
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
        print(f"A: {answer or _why_empty(thought, args.max_new_tokens)}")
        answers.append({"question": question, "thought": thought, "answer": answer})
    return {"video": args.video, "images": args.image, "answers": answers}


def _why_empty(thought: str, limit: int) -> str:
    """What to show in place of an empty answer."""
    if thought:
        return f"(none: the thought did not end; raise --max_new_tokens={limit})"
    return "(empty: the model ended its turn at once, as after too few steps of training)"


def _typed_questions() -> Iterator[str]:
    """Questions from standard input, until an empty line or the end."""
    while True:
        try:
            question = input("question (empty to end): ").strip()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise UserError(f"the question is not UTF-8 ({error}); type it again") from error
        if not question:
            return
        yield question
