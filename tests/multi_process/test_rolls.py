"""Several processes sample together: each samples its own prompts, all train on all answers."""

import pytest

from ivx.stages import gspo
from ivx.training.writers import read_metrics
from tests.multi_process import launch, rolls

pytestmark = pytest.mark.slow


def numbers(workdir) -> list[dict[str, float]]:
    """Metrics of each step, without speed and memory."""
    names = ("loss/total", "tokens/seen", "tokens/trained", "grad/norm")
    return [
        {name: row[name] for name in row if name in names or name.startswith("rl/")}
        for row in read_metrics(workdir / "metrics.jsonl")
        if "loss/total" in row
    ]


@pytest.mark.parametrize(
    ("kind", "count", "sizes"),
    [
        ("gspo", 2, {"fsdp": 4, "context": 2}),
        # Two processes hold one pack and sample the same prompts, which count once.
        ("gspo", 4, {"fsdp": 2, "context": 4}),
        ("opd", 2, {"fsdp": 4, "tensor": 2}),
    ],
    ids=str,
)
def test_several_processes_roll_out_as_one(kind, count, sizes, data_folder, tmp_path, monkeypatch):
    words = [f"{name}={size}" for name, size in sizes.items()]
    asked = [kind, str(tmp_path / "several"), str(data_folder), *words]
    started = launch.launch("tests.multi_process.rolls", asked, count)
    said = [process.communicate(timeout=1500)[1] for process in started]
    assert all(process.returncode == 0 for process in started), said[0][-3000:]
    monkeypatch.setattr(gspo, "reward_of", rolls.by_length)
    rolls.train(kind, tmp_path / "alone", data_folder, sizes)
    together, alone = numbers(tmp_path / "several"), numbers(tmp_path / "alone")
    assert len(together) == len(alone) == rolls.STEPS
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
