"""Names of files on a page: relative, so that a page can be passed on.

An absolute path tells where its author keeps files, and means nothing on another machine.
"""

import os
import pathlib
import re

# The folders of an absolute path. Slashes of an address (gs://...) or of a relative path follow a
# letter, a dot, a colon or another slash.
_FOLDERS = re.compile(r"(?:\bfile://|(?<![\w./]))(?<!:(?=//))/(?=[^\s/])(?:[^\s/]+/)*")


def without_folders(text: str) -> str:
    """A sentence with the names of files in place of their absolute paths."""
    return _FOLDERS.sub("", text)


def relative(path: str, folder: pathlib.Path) -> str:
    """A path as seen from `folder`, if it lies in it or beside it; otherwise its name.

    Args:
      path: any path; a relative one, an address or a name stays as it is.
      folder: the folder of the page.
    """
    if not path.startswith("/"):
        return path
    folder = folder.resolve()
    near = pathlib.Path(path).is_relative_to(folder.parent)
    return os.path.relpath(path, folder) if near else pathlib.PurePath(path).name
