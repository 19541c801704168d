"""The committed golden files match the installed transformers."""

import json

import numpy as np
import pytest

from ivx.hf import peer
from tests import make_parity
from tests.parity import peers

pytest.importorskip("torch")
peer.declare_torchvision_operators()
pytest.importorskip("transformers", exc_type=ImportError)


@pytest.mark.parametrize("name", make_parity.FILES)
def test_golden_file_matches_transformers(name: str):
    if name.endswith("processor.json"):
        pytest.importorskip("torchvision")
    try:
        output = make_parity.FILES[name]()
    except peers.PeerMissingError as error:
        pytest.skip(str(error))
    assert output == json.loads((make_parity.GOLDEN / name).read_text())


@pytest.mark.parametrize("name", make_parity.PIXELS)
def test_golden_pixels_match_transformers(name: str):
    pytest.importorskip("torchvision")
    golden = np.load(make_parity.GOLDEN / name)
    for key, frame in make_parity.PIXELS[name]().items():
        # The rounding depends on the instruction set of the CPU.
        assert np.abs(frame.astype(int) - golden[key]).max() <= 1
