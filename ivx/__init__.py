"""ivx: InternVideo3 for JAX and TPU.

model = ivx.load("/tmp/ivx/sft")                      the workdir of a run
print(ivx.generate(model, "clip.mp4", "What colour is the shape?"))
print(ivx.generate(model, None, "What differs?", images=["a.jpg", "b.png"]))
"""

__all__ = ["export_hf", "generate", "load"]


def load(workdir: str):
    """The newest checkpoint of a run, or a Hugging Face folder, as an `ivx.assistant.Assistant`.

    Raises:
      UserError: the folder is not a workdir, or holds no checkpoint.
    """
    from ivx import build

    return build.assistant(build.stored.open_model(workdir))


def generate(
    model,
    video: str | None,
    prompt: str,
    max_new_tokens: int = 64,
    enable_thinking: bool | None = None,
    images=(),
) -> str:
    """What the model of `load` answers to `prompt` about a video file, image files, or both.

    With `enable_thinking` the prompt opens a thought, as users of Qwen know it: what comes back
    goes on with it, and the answer stands behind </think>. False opens an empty one.

    Raises:
      UserError: a file cannot be read as a video, or as an image.
    """
    return model.generate(video, prompt, max_new_tokens, enable_thinking, images)


def export_hf(workdir: str, out: str, dtype: str = "bfloat16") -> None:
    """Writes the newest checkpoint of a run as a Hugging Face folder that `transformers` loads.

    Raises:
      UserError: the folder is not a workdir, or `out` is taken.
    """
    import pathlib

    from ivx.build import stored
    from ivx.commands import export_hf as command

    command.export_model(stored.open_model(workdir), pathlib.Path(out), dtype, 5.0)
