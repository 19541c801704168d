"""ivx: InternVideo3 for JAX and TPU.

model = ivx.load("/tmp/ivx/sft")                      the workdir of a run
print(ivx.generate(model, "clip.mp4", "What colour is the shape?"))
"""

__all__ = ["generate", "load"]


def load(workdir: str):
    """The newest checkpoint of a run, as an `ivx.assistant.Assistant`.

    Raises:
      UserError: the folder is not a workdir, or holds no checkpoint.
    """
    import pathlib

    from ivx import build, config

    folder = pathlib.Path(workdir)
    return build.assistant(config.load_workdir(folder), folder)


def generate(model, video: str, prompt: str, max_new_tokens: int = 64) -> str:
    """What the model of `load` answers to `prompt` about the video file.

    Raises:
      UserError: the file cannot be read as a video.
    """
    return model.generate(video, prompt, max_new_tokens)
