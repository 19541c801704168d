"""`ivx chat`: asks questions of a video, of images, or of both."""

from collections.abc import Iterator

from absl import flags

from ivx.errors import UserError

SUMMARY = "Ask questions of any video or image file."
EXAMPLE = """\
  ivx chat --workdir=/tmp/ivx/sft --video=clip.mp4 --question="What colour is the shape?"
  ivx chat --workdir=/tmp/ivx/sft --image=a.jpg --image=b.png --question="What differs?"
  ivx chat --workdir=/tmp/ivx/sft --video=clip.mp4        (asks you for questions)"""


def define_flags() -> None:
    flags.DEFINE_string(
        "workdir", "", "A run, whose newest checkpoint answers, or a Hugging Face folder."
    )
    flags.DEFINE_string("video", "", "The video file.")
    flags.DEFINE_multi_string(
        "image", [], "An image file; may be given more than once, and together with --video."
    )
    flags.DEFINE_multi_string(
        "question", [], "A question; may be given more than once. Without it you are asked."
    )
    flags.DEFINE_bool(
        "enable_thinking", None, "Open a thought (or, with no..., an empty one) before the answer."
    )
    flags.DEFINE_integer("max_new_tokens", 64, "Tokens an answer may have.", lower_bound=1)


def run(given, words: list[str]) -> dict:
    del words
    if not given.video and not given.image:
        raise UserError("no --video and no --image was given; name a file, as in --video=clip.mp4")

    from ivx import build
    from ivx.build import stored
    from ivx.parallel import start
    from ivx.text import thinking

    model = stored.open_model(build.workdir(given.workdir))
    start.start(cpu_devices=0)
    assistant = build.assistant(model)
    for clip in assistant.look(given.video, images=given.image).clips:
        shown = f"{clip.info.width}x{clip.info.height} pixels"
        if not clip.still:
            shown = f"{len(clip.indices)} of {clip.info.num_frames} frames"
        print(f"{clip.path}: {shown}, seen at {clip.width}x{clip.height} pixels")
    answered = []
    for question in given.question or _typed():
        written = assistant.generate(
            given.video, question, given.max_new_tokens, given.enable_thinking, given.image
        )
        turn = thinking.whole_turn(written, given.enable_thinking)
        thought, answer = thinking.apart(turn)
        print(f"Q: {question}")
        if thought:
            print(f"(thought) {thought}")
        print(f"A: {answer}")
        answered.append({"question": question, "thought": thought, "answer": answer})
    return {"video": given.video, "images": given.image, "answers": answered}


def _typed() -> Iterator[str]:
    """Questions typed by a person, until an empty line or the end of input."""
    while True:
        try:
            question = input("question (empty to end): ").strip()
        except EOFError:
            return
        if not question:
            return
        yield question
