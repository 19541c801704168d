"""The support matrix says what tests and the compiler said, and no more."""

import pathlib
import types

import pytest

from ivx.commands.compile import cells as of_pods
from ivx.commands.compile import made_from, support
from ivx.errors import UserError

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.test_gspo" name="test_a" time="1"/>
<testcase classname="tests.test_gspo" name="test_b"><failure message="no"/></testcase>
<testcase classname="tests.test_gspo" name="test_c"><skipped message="slow"/></testcase>
<testcase classname="tests.test_parallel" name="test_sharded_equals[fsdp]"/>
<testcase classname="tests.test_hf_names" name="test_x"/>
<testcase classname="tests.test_agent_command" name="test_x"/>
</testsuite></testsuites>"""


@pytest.fixture
def tests(tmp_path) -> pathlib.Path:
    path = tmp_path / "tests.xml"
    path.write_text(JUNIT)
    return path


def test_features_are_what_their_tests_are(tests):
    found = support.features(support.read_outcomes(tests))
    assert found["gspo"] == "1 passed, 1 failed, 1 skipped"
    assert found["one device = eight, each mesh axis"] == "1 passed"
    assert found["Hugging Face in and out"] == "1 passed"
    # Of test_agent_command, none of test_agent.
    assert found["the agent"] == support.UNTESTED
    assert found["micro-batches"] == support.UNTESTED


def test_steps_and_kernels_are_what_the_compiler_said():
    fits = {"refusal": "", "memory": {"peak": 61}, "capacity": 100}
    now = {"made_from": made_from.now(of_pods.config("cpt", "v6e:16x16"))}
    cells = {
        "cpt v6e:16x16": fits | now,
        "cpt v5e:16x16": fits | {"memory": {"peak": 120}},
        "sft_long v6e:16x16": {"refusal": "no"},
        "sft_long v5e:16x16": {"refusal": "not compiled within 9 s", "answered": False},
    }
    found = support.stages(cells)
    assert found["cpt"]["v6e:16x16"] == "compiles, 61% of memory"
    assert found["cpt"]["v5e:16x16"] == "too large, 120%, of earlier sources"
    assert found["sft_long"]["v6e:16x16"] == "refused, of earlier sources"
    assert found["sft_long"]["v5e:16x16"] == support.UNTESTED
    assert found["opd"]["v6e:16x16"] == support.UNTESTED
    rows = [
        {"op": "x", "case": case, "chip": "v6e", "refusal": refusal}
        for case, refusal in (("x-forward", ""), ("x-backward", "no"), ("peer-forward", ""))
    ]
    assert support.kernels(rows)["x"] == {
        "v5e": "untested",
        "v5p": "untested",
        "v6e": "1 of 2 cases",
        "tpu7x": "untested",
    }


def test_a_page_is_written_even_where_nothing_is_known(tmp_path, capsys):
    given = types.SimpleNamespace(
        store=str(tmp_path / "none.json"), kernels="", tests=[], out=str(tmp_path / "page.md")
    )
    support.run(given)
    text = (tmp_path / "page.md").read_text()
    assert text.strip() in capsys.readouterr().out
    cells = len(of_pods.CELLS) * len(of_pods.TOPOLOGIES) + 2 * len(support.FEATURES)
    # And the whole of the kernels in one word.
    assert text.replace("*untested*", "").count("untested") == cells + 1
    assert "compiles" not in text and "passed" not in text


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "x").write_text("<no")
    with pytest.raises(UserError, match="make it by pytest --junitxml"):
        support.read_outcomes(tmp_path / "x")
    with pytest.raises(UserError, match="ends with no JSON"):
        support._last_json(str(tmp_path / "x"))


def test_features_name_tests_that_there_are():
    """A test file that is renamed must not turn its feature into an untested one."""
    folder = pathlib.Path(__file__).parent
    for tests in support.FEATURES.values():
        for one in tests:
            module, _, name = one.partition(":")
            path = module.replace(".", "/") + ("*" if module.endswith("_") else "")
            files = list(folder.glob(f"{path}.py"))
            assert files, one
            assert not name or f"def {name}" in files[0].read_text(), one
