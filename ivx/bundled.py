"""The small models and the clip that ship with ivx, found by name from any folder.

    tiny-base       the stand-in for Qwen3-VL: grouped attention, 4.4 M parameters
    tiny-teacher    the teacher of the tiny distillation
    clip.mp4        a few seconds of the synthetic world

A checkout has them in `assets/`; a wheel has them in `ivx/_assets`.
"""

import pathlib

NAMES = ("tiny-base", "tiny-teacher", "clip.mp4")
_PACKAGE = pathlib.Path(__file__).parent
FOLDERS = (_PACKAGE / "_assets", _PACKAGE.parent / "assets")


def find(path: str | pathlib.Path) -> pathlib.Path:
    """The path itself if it exists, else the bundled file or folder of this name if there is one.

    Args:
      path: `tiny-base`, `assets/tiny-base`, or any path.
    """
    path = pathlib.Path(path)
    name = str(path).removeprefix("assets/")
    if path.exists() or name not in NAMES:
        return path
    return next((folder / name for folder in FOLDERS if (folder / name).exists()), path)
