"""The committed golden files are what the installed transformers says today."""

import json

import numpy as np
import pytest

from tests import make_parity
from tests.parity import peer_processor, peers, torchvision_shim

pytest.importorskip("torch")
torchvision_shim.declare()
pytest.importorskip("transformers", exc_type=ImportError)


@pytest.mark.parametrize("name", make_parity.FILES)
def test_the_golden_file_is_what_the_peer_says(name):
    if name == "processor.json":
        pytest.importorskip("torchvision")
    try:
        found = make_parity.FILES[name]()
    except peers.PeerMissingError as error:
        pytest.skip(str(error))
    assert found == json.loads((make_parity.GOLDEN / name).read_text())


def test_so_are_the_pixels():
    pytest.importorskip("torchvision")
    golden = np.load(make_parity.GOLDEN / make_parity.PIXELS)
    for number, frame in peer_processor.pixels().items():
        # Its rounding depends on what the processor of the machine can do.
        assert np.abs(frame.astype(int) - golden[number]).max() <= 1
