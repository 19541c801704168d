"""The support matrix shows what tests and the compiler reported, and no more."""

import pathlib
import types

import pytest

from benchmarks.pods import grid
from benchmarks.support import matrix
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
REFUSED = {"ok": False, "refusal": "no"}


@pytest.fixture
def tests(tmp_path) -> list[pathlib.Path]:
    """Results of tests, results of slow tests, and the list of slow tests."""
    paths = [tmp_path / name for name in ("fast.xml", "slow.xml", "slow.txt")]
    for path, text in zip(paths, (JUNIT, SLOW_JUNIT, SLOW), strict=True):
        path.write_text(text)
    return paths


def on_cpus(outcomes, slow=frozenset()) -> dict[str, str]:
    return {name: row["on CPUs"] for name, row in matrix.features(outcomes, slow, {}).items()}


def test_features_count_the_outcomes_of_their_tests(tests):
    found = on_cpus(matrix.read_outcomes(tests[:1]))
    assert found["gspo"] == "1 passed, 1 failed, 1 skipped"
    assert found["spread over devices of one process = one device"] == "1 passed"
    assert found["Hugging Face in and out"] == "1 passed"
    # A test of test_agent_command is none of test_agent.
    assert found["the agent"] == matrix.UNTESTED
    assert found["micro-batches"] == matrix.UNTESTED


def test_slow_tests_are_counted_apart_whether_they_ran_or_not(tests):
    found = on_cpus(matrix.read_outcomes(tests[:2]), matrix.read_slow(tests[2]))
    one = "spread over devices of one process = one device"
    assert found[one] == "1 passed, 1 slow passed, 1 slow not run"
    assert found["micro-batches"] == "untested, 1 slow not run"
    assert found["tensor parallelism"] == "1 passed, 1 slow not run"
    assert found["context parallelism"] == "untested"
    assert found["several hosts, by real processes"] == "untested, 1 slow not run"
    # A pass in another file does not hide a failure.
    assert found["gspo"] == "1 passed, 1 failed, 1 skipped"


def test_tables_of_steps_and_kernels_show_the_compiler_results():
    old = {"outdated": "of an earlier program"}
    changed = {"mesh": "fsdp:8", "changes": ["data.pack_tokens=8192"]}
    cells = {
        "cpt v6e:16x16": COMPILED,
        "cpt v5e:16x16": COMPILED | old | {"topology": "v5e:16x16", "memory": {"peak": 120}},
        "cpt v5p:4x4x4": COMPILED | {"topology": "v5p:4x4x4", "memory": {"peak": 95}},
        "sft_long v6e:16x16": COMPILED | REFUSED | old,
        "sft_long v5e:16x16": COMPILED | REFUSED | {"answered": False},
        "convert v5e:16x16": (
            COMPILED | old | {"topology": "v5e:2x4", "asked": changed, "remat": "layer"}
        ),
    }
    found = matrix.stages(cells)
    setting = "fsdp 64 x context 4; 2 micro-batches; remat attention"
    assert found["cpt"]["v6e:16x16"] == f"fits, 61%; {setting}"
    assert found["sft_short"]["v6e:16x16"] == found["cpt"]["v6e:16x16"]
    assert found["cpt"]["v5e:16x16"] == f"too large, 120%; {setting}; of an earlier program"
    assert found["cpt"]["v5p:4x4x4"].startswith("too large, 95%")
    assert found["sft_long"]["v6e:16x16"] == f"refused; {setting}; of an earlier program"
    assert found["sft_long"]["v5e:16x16"] == matrix.UNTESTED
    assert found["opd"]["v6e:16x16"] == matrix.UNTESTED
    assert found["convert"]["v5e:16x16"].startswith("fits, 61%, on one host, v5e:2x4; fsdp 64")
    assert "remat layer; data.pack_tokens=8192; of" in found["convert"]["v5e:16x16"]
    rows = [
        {"op": "x", "case": case, "chip": "v6e", "refusal": refusal}
        for case, refusal in (("x-forward", ""), ("x-backward", "no"), ("peer-forward", ""))
    ]
    assert matrix.kernels(rows)["x"] == {
        "v5e": "untested",
        "v5p": "untested",
        "v6e": "1 of 2 cases",
        "tpu7x": "untested",
    }


def test_features_list_compiled_stages_that_have_them_and_fit():
    lora = {"mesh": "fsdp:64", "changes": ["optim.lora_rank=16"]}
    cells = {
        "cpt v6e:16x16": COMPILED,
        "sft_long v6e:16x16": COMPILED | {"accumulation": 1, "asked": lora},
        "cpt v5e:16x16": COMPILED | {"memory": {"peak": 95}},
        "opd v6e:16x16": COMPILED | REFUSED,
    }
    found = matrix.features({}, set(), cells)
    assert found["micro-batches"]["v6e:16x16"] == "cpt, sft_short"
    assert found["context parallelism"]["v6e:16x16"] == "cpt, sft_short, sft_long"
    assert found["LoRA"]["v6e:16x16"] == "sft_long"
    for name in ("tensor parallelism", "host offload", "on-policy distillation", "SIGTERM"):
        assert found[name]["v6e:16x16"] == matrix.UNTESTED
    assert found["micro-batches"]["v5e:16x16"] == matrix.UNTESTED


def test_page_without_any_results_says_untested_everywhere(tmp_path, capsys):
    flags = types.SimpleNamespace(
        store=str(tmp_path / "none.json"),
        kernels="",
        tests=[],
        slow="",
        out=str(tmp_path / "page.md"),
    )
    matrix.run(flags)
    text = (tmp_path / "page.md").read_text()
    assert text.strip() in capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith("| ") and line[2] != "|"]
    assert len(rows) == len(grid.CELLS) + len(matrix.FEATURES)
    for row in rows:
        assert set(row.strip("| ").split(" | ")[1:]) == {matrix.UNTESTED}, row
    # The kernels have no table at all.
    assert "\nuntested\n" in text and "passed" not in text


def test_unreadable_inputs_are_rejected(tmp_path):
    (tmp_path / "x").write_text("<no")
    with pytest.raises(UserError, match="create it by pytest --junitxml"):
        matrix.read_outcomes([tmp_path / "x"])
    with pytest.raises(UserError, match="create it by python -m pytest -m slow"):
        matrix.read_slow(tmp_path / "x")
    with pytest.raises(UserError, match="does not end with JSON"):
        matrix._last_json(str(tmp_path / "x"))


def test_features_name_existing_tests():
    """Renaming a test file must not turn its feature into an untested one."""
    folder = pathlib.Path(__file__).parent
    for feature in matrix.FEATURES.values():
        for pattern in feature.tests:
            module, _, name = pattern.partition(":")
            files = list(folder.glob(f"{module.replace('.', '/')}.py"))
            assert files, pattern
            assert not name or f"def {name.split('*')[0]}" in files[0].read_text(), pattern
