"""Makes the golden files of the peers anew: `python -m tests.make_parity`, then read the diff.

Runs where the extra `parity` is installed; what it writes needs nothing of it.
"""

import json
import pathlib
import sys

from tests.parity import peers

GOLDEN = pathlib.Path(__file__).parent / "golden" / "parity"
FILES = {"chat_template.json": peers.chat_template, "tokenizer.json": peers.tokenizer}


def main(names: list[str]) -> None:
    GOLDEN.mkdir(exist_ok=True, parents=True)
    for name in names or FILES:
        rows = ",\n".join(json.dumps(row) for row in FILES[name]())
        (GOLDEN / name).write_text(f"[\n{rows}\n]\n")


if __name__ == "__main__":
    main(sys.argv[1:])
