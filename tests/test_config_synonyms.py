"""The nearest keys to an unknown one, by spelling and by meaning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivx import config_keys, config_synonyms
from ivx.config_synonyms import nearest

KNOWN = config_keys.everything()


def test_every_synonym_means_one_existing_key_and_is_none():
    names = [name for names in config_synonyms.NAMES.values() for name in names.split()]
    assert set(config_synonyms.NAMES) <= set(KNOWN)
    assert len(names) == len(set(names))
    assert not set(names) & {key.partition(".")[2] for key in KNOWN}


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", "optim.learning_rate"),
        ("optim.LR", "optim.learning_rate"),
        ("batch_size", "data.batch_packs"),
        ("data.batch-size", "data.batch_packs"),
        ("epochs", "run.steps"),
        ("train.max_steps", "run.steps"),
        ("steps", "run.steps"),
        ("gradient_acumulation_steps", "optim.accumulation"),
        ("optim.learningrate", "optim.learning_rate"),
        ("model.bf16", "model.dtype"),
        ("mesh.tp", "mesh.tensor"),
    ],
)
def test_key_of_other_trainers_is_understood(key: str, meant: str):
    assert nearest(key, KNOWN) == f"; did you mean {meant}?"


def test_unknown_key_without_a_neighbour_says_where_keys_are_listed():
    assert nearest("zebra.xyzzy", KNOWN).startswith("; `ivx configs --show")
    assert "optim is a section, with keys such as optim." in nearest("optim", KNOWN)
    assert "--workdir" in nearest("output_dir", KNOWN)


@given(st.text(max_size=30))
def test_any_key_gets_a_hint_with_existing_keys(key: str):
    hint = nearest(key, KNOWN)
    if "did you mean" in hint:
        words = hint.removeprefix("; did you mean ").removesuffix("?").split(" or ")
        assert set(words) <= set(KNOWN)
