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
<testcase classname="tests.test_parallel" name="test_sharded_equals[fsdp-tensor]"/>
<testcase classname="tests.test_hf_names" name="test_x"/>
<testcase classname="tests.test_agent_command" name="test_x"/>
</testsuite></testsuites>"""
SLOW_JUNIT = """<testsuites><testsuite>
<testcase classname="tests.test_parallel" name="test_sharded_equals[replica]"/>
<testcase classname="tests.test_gspo" name="test_b"/>
</testsuite></testsuites>"""
SLOW = """tests/test_parallel.py::test_sharded_equals[replica]
tests/test_parallel.py::test_sharded_equals[tensor]
tests/test_parallel.py::test_micro_batches
tests/multi_process/test_other_hosts.py::test_a

4/9 tests collected (5 deselected) in 1.0s
"""


COMPILED = {
    "flops": {"attention": 1.0},
    "stage": "sft",
    "topology": "v6e:16x16",
    "devices": 256,
    "mesh": {"replica": 1, "fsdp": 64, "tensor": 1, "context": 4},
    "accumulation": 2,
    "remat": "attention",
    "asked": {"mesh": "fsdp:64,context:4", "changes": ["optim.accumulation=2"]},
    "program": {"kernels": {}},
    "ok": True,
    "refusal": "",
    "memory": {"peak": 61},
    "capacity": 100,
}
NONE = {"ok": False, "refusal": "no"}


@pytest.fixture
def tests(tmp_path) -> list[pathlib.Path]:
    """Files of tests, of slow ones, and of which are slow."""
    paths = [tmp_path / name for name in ("fast.xml", "slow.xml", "slow.txt")]
    for path, text in zip(paths, (JUNIT, SLOW_JUNIT, SLOW), strict=True):
        path.write_text(text)
    return paths


def on_cpus(outcomes, slow=frozenset()) -> dict[str, str]:
    return {name: row["on CPUs"] for name, row in support.features(outcomes, slow, {}).items()}


def test_features_are_what_their_tests_are(tests):
    found = on_cpus(support.read_outcomes(tests[:1]))
    assert found["gspo"] == "1 passed, 1 failed, 1 skipped"
    assert found["spread over devices of one process = one device"] == "1 passed"
    assert found["Hugging Face in and out"] == "1 passed"
    # Of test_agent_command, none of test_agent.
    assert found["the agent"] == support.UNTESTED
    assert found["micro-batches"] == support.UNTESTED


def test_slow_tests_are_told_apart_whether_they_ran_or_not(tests):
    found = on_cpus(support.read_outcomes(tests[:2]), support.read_slow(tests[2]))
    one = "spread over devices of one process = one device"
    assert found[one] == "1 passed, 1 slow passed, 1 slow not run"
    assert found["micro-batches"] == "untested, 1 slow not run"
    assert found["tensor parallelism"] == "1 passed, 1 slow not run"
    assert found["context parallelism"] == "untested"
    assert found["several hosts, by real processes"] == "untested, 1 slow not run"
    # That it passed elsewhere makes no failure good.
    assert found["gspo"] == "1 passed, 1 failed, 1 skipped"


def test_steps_and_kernels_are_what_the_compiler_said():
    now = {"made_from": made_from.now(of_pods.config("cpt", "v6e:16x16"))}
    changed = {"mesh": "fsdp:8", "changes": ["data.pack_tokens=8192"]}
    cells = {
        "cpt v6e:16x16": COMPILED | now,
        "cpt v5e:16x16": COMPILED | {"topology": "v5e:16x16", "memory": {"peak": 120}},
        "cpt v5p:4x4x4": COMPILED | {"topology": "v5p:4x4x4", "memory": {"peak": 95}},
        "sft_long v6e:16x16": COMPILED | NONE,
        "sft_long v5e:16x16": COMPILED | NONE | {"answered": False},
        "convert v5e:16x16": COMPILED | {"topology": "v5e:2x4", "asked": changed, "remat": "layer"},
    }
    found = support.stages(cells)
    setting = "fsdp 64 x context 4; 2 micro-batches; remat attention"
    assert found["cpt"]["v6e:16x16"] == f"fits, 61%; {setting}"
    assert found["sft_short"]["v6e:16x16"] == found["cpt"]["v6e:16x16"]
    assert found["cpt"]["v5e:16x16"] == f"too large, 120%; {setting}; of earlier sources"
    assert found["cpt"]["v5p:4x4x4"].startswith("too large, 95%")
    assert found["sft_long"]["v6e:16x16"] == f"refused; {setting}; of earlier sources"
    assert found["sft_long"]["v5e:16x16"] == support.UNTESTED
    assert found["opd"]["v6e:16x16"] == support.UNTESTED
    assert found["convert"]["v5e:16x16"].startswith("fits, 61%, on one host, v5e:2x4; fsdp 64")
    assert "remat layer; data.pack_tokens=8192; of" in found["convert"]["v5e:16x16"]
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


def test_features_of_steps_are_those_of_what_was_compiled_and_fits():
    lora = {"mesh": "fsdp:64", "changes": ["optim.lora_rank=16"]}
    cells = {
        "cpt v6e:16x16": COMPILED,
        "sft_long v6e:16x16": COMPILED | {"accumulation": 1, "asked": lora},
        "cpt v5e:16x16": COMPILED | {"memory": {"peak": 95}},
        "opd v6e:16x16": COMPILED | NONE,
    }
    found = support.features({}, set(), cells)
    assert found["micro-batches"]["v6e:16x16"] == "cpt, sft_short"
    assert found["context parallelism"]["v6e:16x16"] == "cpt, sft_short, sft_long"
    assert found["LoRA"]["v6e:16x16"] == "sft_long"
    for name in ("tensor parallelism", "host offload", "on-policy distillation", "SIGTERM"):
        assert found[name]["v6e:16x16"] == support.UNTESTED
    assert found["micro-batches"]["v5e:16x16"] == support.UNTESTED


def test_a_page_is_written_even_where_nothing_is_known(tmp_path, capsys):
    given = types.SimpleNamespace(
        store=str(tmp_path / "none.json"),
        kernels="",
        tests=[],
        slow="",
        out=str(tmp_path / "page.md"),
    )
    support.run(given)
    text = (tmp_path / "page.md").read_text()
    assert text.strip() in capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith("| ") and line[2] != "|"]
    assert len(rows) == len(of_pods.CELLS) + len(support.FEATURES)
    for row in rows:
        assert set(row.strip("| ").split(" | ")[1:]) == {support.UNTESTED}, row
    # And the whole of the kernels in one word.
    assert "\nuntested\n" in text and "passed" not in text


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "x").write_text("<no")
    with pytest.raises(UserError, match="make it by pytest --junitxml"):
        support.read_outcomes([tmp_path / "x"])
    with pytest.raises(UserError, match="make it by python -m pytest -m slow"):
        support.read_slow(tmp_path / "x")
    with pytest.raises(UserError, match="ends with no JSON"):
        support._last_json(str(tmp_path / "x"))


def test_features_name_tests_that_there_are():
    """A test file that is renamed must not turn its feature into an untested one."""
    folder = pathlib.Path(__file__).parent
    for feature in support.FEATURES.values():
        for one in feature.tests:
            module, _, name = one.partition(":")
            files = list(folder.glob(f"{module.replace('.', '/')}.py"))
            assert files, one
            assert not name or f"def {name.split('*')[0]}" in files[0].read_text(), one
