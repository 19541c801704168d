"""The real-size benchmark: folders that are readable and always the same, and its measurements."""

import sys

import pytest
from safetensors import safe_open

from benchmarks.real_size import child, geometry, limits, measure, page, steps
from ivx import progress
from ivx.hf import names
from ivx.models import spec as specs
from ivx.models.definition import ModelDefinition


@pytest.fixture(autouse=True)
def own_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial geometry is no preset of other tests."""
    monkeypatch.setattr(specs, "PRESETS", dict(specs.PRESETS))


def test_shard_is_a_safetensors_file_and_always_the_same(tmp_path):
    """Written block by block; the library reads it."""
    weights = list(names.weights(ModelDefinition(specs.tiny("gqa"))))[:12]
    for name in ("a", "b"):
        with progress.Bar(None, "writing") as bar:
            geometry._write_shard(tmp_path / name, weights, bar)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with safe_open(tmp_path / "a", framework="np") as shard:
        for weight in weights:
            tensor = shard.get_tensor(weight.name).astype("float32")
            assert tensor.shape == weight.shape
            if weight.path[-1] == "scale":
                assert (tensor == 1).all()
            elif weight.path[-1] == "kernel":
                assert 0.015 < tensor.std() < 0.025


def test_shards_are_bounded(monkeypatch):
    monkeypatch.setattr(geometry, "_SHARD_BYTES", 1e6)
    weights = list(names.weights(ModelDefinition(specs.tiny("gqa"))))
    shards = list(geometry._split(weights))
    assert [weight.name for shard in shards for weight in shard] == [w.name for w in weights]
    assert len(shards) > 3


def test_peak_memory_and_time_of_a_process_are_measured(tmp_path):
    program = "import time; a = bytearray(100 << 20); time.sleep(0.5); print('done')"
    ran = child.run([sys.executable, "-c", program], tmp_path / "log")
    assert ran.code == 0 and ran.log == "done\n" and ran.seconds > 0.5
    assert 100 * 2**20 < ran.peak < 150 * 2**20 and ran.resident > ran.peak


def test_steps_read_only_what_earlier_steps_make(tmp_path):
    planned = steps.steps(geometry.TRIAL, tmp_path)
    order = list(planned)
    for number, step in enumerate(planned.values()):
        assert set(step.needs) <= set(order[:number]), step.name
    assert {"import", "verify", "convert", "export", "chat", "merger", "lora"} <= set(order)
    assert planned["import"].memory() == pytest.approx(
        limits.reading(geometry.parameters(geometry.TRIAL))
    )


def test_extrapolation_leaves_the_start_out():
    assert limits.extrapolated(5.0, 1.0, 4.0) == 17.0
    assert limits.extrapolated(0.5, 1.0, 4.0) == 1.0


def test_page_names_failures_and_what_is_over_its_limit():
    row = {"what": "chat", "code": 0, "seconds": 60.0, "peak": 3 * 2**30, "resident": 4 * 2**30}
    row |= {"memory_limit": 2 * 2**30, "least_seconds": 9.0, "peak_8b": 12e9, "seconds_8b": 240.0}
    machine = {
        "flops": 1e11,
        "written": 2e8,
        "read": 1e9,
        "start_seconds": 3.0,
        "start_bytes": 2**28,
    }
    result = {
        "geometry": "2b",
        "parameters": 2.13e9,
        "conditions": {"cores": 2},
        "machine": machine,
        "ratio_8b": 4.12,
        "steps": [row, row | {"what": "export-hf", "code": 137}],
    }
    text = page.render(result)
    assert "| chat | 3.0 (over) | 2.0 | 4.0 | 60 | 9 | 11 | 4 |" in text
    assert "| export-hf | failed with code 137 |" in text and "Conditions: cores 2." in text


def test_finished_step_is_kept_and_its_source_made_again_for_another(tmp_path, monkeypatch):
    """What no step still to come reads is removed; a later start makes it again where needed."""
    planned = steps.steps("trial", tmp_path)
    ran = []

    def run(command: list[str], log: object) -> child.Run:
        ran.append(next(name for name, step in planned.items() if step.command == command))
        if made := planned[ran[-1]].makes:
            made.mkdir()
        return child.Run(0, 1.0, 2**30, 2**30, "")

    monkeypatch.setattr(child, "run", run)
    monkeypatch.setattr(steps, "forecast", lambda *_: 0.0)

    def start(*wanted: str, again: tuple[str, ...] = ()) -> list[str]:
        ran.clear()
        record = measure._Record(tmp_path / "measured.json", "trial", again)
        record.rows.setdefault("machine", {"flops": 1.0, "written": 1.0, "read": 1.0})
        record.rows["machine"] |= {"start_seconds": 1.0, "start_bytes": 1}
        measure._run(planned, wanted, record, tmp_path, keep=False)
        return list(ran)

    assert start("export") == ["data", "import", "convert", "export"]
    assert not any(step.makes.exists() for step in planned.values() if step.makes)
    assert start("export", "convert") == []
    assert start("convert", again=("convert",)) == ["import", "convert"]
