"""Makes the golden files of the peers anew: `python -m tests.make_parity`, then read the diff.

Runs where `make test-parity` has installed its peers; what it writes needs nothing of it.
"""

import json
import pathlib
import sys

import numpy as np

from tests.parity import peer_processor, peers

GOLDEN = pathlib.Path(__file__).parent / "golden" / "parity"
PIXELS = {
    "pixels.npz": peer_processor.pixels,
    "image_pixels.npz": peer_processor.image_pixels,
}
FILES = {
    "chat_template.json": peers.chat_template,
    "tokenizer.json": peers.tokenizer,
    "processor.json": peer_processor.rows,
    "image_processor.json": peer_processor.image_rows,
}


def main(names: list[str]) -> None:
    GOLDEN.mkdir(exist_ok=True, parents=True)
    names = names or [*PIXELS, *FILES]
    for name in [name for name in names if name in PIXELS]:
        np.savez_compressed(GOLDEN / name, **PIXELS[name]())
    for name in [name for name in names if name not in PIXELS]:
        rows = ",\n".join(json.dumps(row) for row in FILES[name]())
        (GOLDEN / name).write_text(f"[\n{rows}\n]\n")


if __name__ == "__main__":
    main(sys.argv[1:])
