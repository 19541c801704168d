"""The committed golden files are what the installed transformers says today."""

import json

import pytest

from tests import make_parity

pytest.importorskip("torch")
pytest.importorskip("transformers", exc_type=ImportError)


@pytest.mark.parametrize("name", make_parity.FILES)
def test_the_golden_file_is_what_the_peer_says(name):
    try:
        found = make_parity.FILES[name]()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    assert found == json.loads((make_parity.GOLDEN / name).read_text())
