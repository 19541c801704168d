"""The committed golden files are what the installed transformers says today."""

import json

import numpy as np
import pytest

from ivx.hf import torchvision_shim
from tests import make_parity
from tests.parity import peers

pytest.importorskip("torch")
torchvision_shim.declare()
pytest.importorskip("transformers", exc_type=ImportError)


@pytest.mark.parametrize("name", make_parity.FILES)
def test_the_golden_file_is_what_the_peer_says(name):
    if name.endswith("processor.json"):
        pytest.importorskip("torchvision")
    try:
        found = make_parity.FILES[name]()
    except peers.PeerMissingError as error:
        pytest.skip(str(error))
    assert found == json.loads((make_parity.GOLDEN / name).read_text())


@pytest.mark.parametrize("name", make_parity.PIXELS)
def test_so_are_the_pixels(name):
    pytest.importorskip("torchvision")
    golden = np.load(make_parity.GOLDEN / name)
    for number, frame in make_parity.PIXELS[name]().items():
        # Its rounding depends on what the processor of the machine can do.
        assert np.abs(frame.astype(int) - golden[number]).max() <= 1
