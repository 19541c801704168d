"""ivx: InternVideo3 for JAX and TPU.

model = ivx.load("/tmp/ivx/sft")                      # the workdir of a run
print(ivx.generate(model, "clip.mp4", "What colour is the shape?"))
print(ivx.generate(model, None, "What differs?", images=["a.jpg", "b.png"]))
"""

from collections.abc import Sequence
from typing import Any

__version__ = "0.1.0"

__all__ = ["export_hf", "generate", "load"]


def load(workdir: str) -> Any:
    """Loads the newest checkpoint of a run, or a Hugging Face folder.

    Returns:
      An `ivx.assistant.Assistant`.

    Raises:
      UserError: the folder is not a workdir, or holds no checkpoint.
    """
    from ivx import from_config

    return from_config.inference.assistant(from_config.stored_model.open_model(workdir))


def generate(
    model: Any,
    video: str | None,
    prompt: str,
    max_new_tokens: int = 64,
    enable_thinking: bool | None = None,
    images: Sequence[str] = (),
) -> str:
    """Answers a prompt about a video file, image files, or both.

    Args:
      model: from `load`.
      video: path of a video file, or None.
      prompt: the question.
      max_new_tokens: the longest answer, in tokens.
      enable_thinking: True opens a thought in the prompt; the returned text continues it, and the
        answer follows </think>. False puts an empty thought into the prompt. None adds nothing.
      images: paths of image files.

    Raises:
      UserError: a file cannot be read as a video or an image.
    """
    return model.generate(video, prompt, max_new_tokens, enable_thinking, images)


def export_hf(workdir: str, out: str, dtype: str = "bfloat16") -> None:
    """Writes the newest checkpoint of a run as a Hugging Face folder that `transformers` loads.

    Raises:
      UserError: `workdir` is not a workdir, or `out` exists and is not empty.
    """
    import pathlib

    from ivx import from_config

    model = from_config.stored_model.open_model(workdir)
    from_config.export.export_model(model, pathlib.Path(out), dtype, 5.0)
