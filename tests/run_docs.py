"""Runs the blocks of a page in one shell, in a copy of the repository.

    python -m tests.run_docs README.md

Blocks marked bash or python run in order; a comment `<!-- not run -->` before a block skips it. The
copy borrows the virtual environment of the running Python, so nothing is installed.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
_BLOCK = re.compile(r"(<!-- not run -->\n+)?```(\w*)\n(.*?)```", re.DOTALL)
_LANGUAGES = ("bash", "python")
# Everything the blocks write; it is removed first, so that no run continues an earlier one.
SCRATCH = pathlib.Path("/tmp/ivx")


class Block(NamedTuple):
    """A block that runs: its language and its text."""

    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """The blocks of a page that are meant to run."""
    return [
        Block(language, text)
        for skipped, language, text in _BLOCK.findall(page)
        if language in _LANGUAGES and not skipped
    ]


def script(page: str) -> str:
    """One shell script of all blocks; it stops at the first failure."""
    lines = ["set -eo pipefail"]
    for block in blocks(page):
        if block.language == "bash":
            lines += ["set -x", block.text, "{ set +x; } 2>/dev/null"]
        else:
            lines += ["python - <<'END_OF_BLOCK'", block.text + "END_OF_BLOCK"]
    return "\n".join(lines) + "\n"


def run(page: str, scratch: pathlib.Path = SCRATCH) -> subprocess.CompletedProcess[bytes]:
    """Runs the blocks of a page in a copy of the repository; output goes to the terminal."""
    if scratch.exists():
        shutil.rmtree(scratch)
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "ivx"
        _copy_repository(copy)
        environment = os.environ | {"PYTHONPATH": str(copy)}
        # As outside of tests, which split the CPU into eight devices.
        environment.pop("XLA_FLAGS", None)
        text = script(page).replace(str(SCRATCH), str(scratch))
        return subprocess.run(["bash", "-c", text], cwd=copy, env=environment, check=False)


def _copy_repository(copy: pathlib.Path) -> None:
    """Copies the files that git knows of, and links the virtual environment."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    (copy / ".venv").symlink_to(sys.prefix)
    # Older than the installation, so that `make setup` has nothing to do.
    for name in ("setup.py", "requirements.lock"):
        os.utime(copy / name, (0, 0))


if __name__ == "__main__":
    sys.exit(run((ROOT / sys.argv[1]).read_text()).returncode)
