"""`ivx compile --search`: arithmetic orders meshes, micro-batches and remat policies."""

import dataclasses
import types
from collections.abc import Callable

import jax
import pytest

from benchmarks.pods import grid
from ivx import from_config
from ivx.aot import arithmetic, chips, estimate
from ivx.aot.options import CompileOptions
from ivx.commands import experiments
from ivx.commands.compile import search
from ivx.models import flop_counts, spec
from ivx.parallel.mesh import AXES, make_mesh
from tests.conftest import ROOT


def a_work() -> arithmetic.Work:
    """The work of continued pretraining."""
    tokens, patches, packs = 65536, 262144, 128
    parts = flop_counts.forward(spec.base_8b(), tokens, tokens**2 // 2, patches, 784)
    flops = {part: packs * n for part, n in flop_counts.training(parts).items()}
    return arithmetic.Work(spec.base_8b(), 9_484_672_240, packs, tokens, patches, flops)


def test_likely_settings_use_all_devices_and_fit_by_arithmetic():
    chip = chips.CHIPS["v5e"]
    found = arithmetic.likely(a_work(), chip, 256, share=0.9)
    assert len(found) > 20
    for setting in found:
        assert setting.devices == 256 and 128 % (setting.fsdp * setting.accumulation) == 0
        assert sum(arithmetic.memory(a_work(), setting).values()) <= 0.9 * chip.memory
    times = [arithmetic.seconds(a_work(), setting, chip) for setting in found]
    assert times == sorted(times)
    assert not arithmetic.likely(a_work(), chip, 4, share=0.9)


@pytest.mark.parametrize(
    ("policy", "less", "size"),
    [
        # Per token and layer: the latent, outputs of 32 heads in bfloat16, and their softmax sums.
        ("attention", "layer", 65536 * 36 * (2 * 1024 + 2 * 4096 + 4 * 32)),
        # Per patch and block: outputs of 16 heads, and their softmax sums.
        ("all_attention", "attention", 262144 * 27 * (2 * 1152 + 4 * 16)),
    ],
)
def test_keeping_more_costs_memory_and_saves_time(policy, less, size):
    kept, made = (arithmetic.Setting(64, 1, 1, 2, name) for name in (policy, less))
    chip = chips.CHIPS["v5p"]
    assert arithmetic.seconds(a_work(), kept, chip) < arithmetic.seconds(a_work(), made, chip)
    more = arithmetic.memory(a_work(), kept)["kept"] - arithmetic.memory(a_work(), made)["kept"]
    assert more == size


def test_settings_that_fit_rank_first_then_by_time():
    def row(peak: int, seconds: float) -> dict:
        memory = {"peak": peak}
        time = {"hidden": seconds, "exposed": seconds}
        return {"ok": True, "memory": memory, "capacity": 100, "estimate": time, "n": seconds}

    refused = {"ok": False, "n": 0}
    rows = [refused, row(95, 1.0), row(50, 3.0), row(90, 2.0)]
    assert [row["n"] for row in sorted(rows, key=search.rank)[:2]] == [2.0, 3.0]


OPTIONS = CompileOptions(timeout=1.0, pace=0.9, slice_patches=784, teacher="32b")


@pytest.fixture
def work_of(monkeypatch) -> Callable[[str], arithmetic.Work]:
    """The work that `--search` passes to arithmetic, for the 8b preset of a stage."""
    found = types.SimpleNamespace()

    def likely(work, chip, devices, share):
        found.work, found.devices = work, devices
        return []

    monkeypatch.setattr(arithmetic, "likely", likely)

    def of(stage: str) -> arithmetic.Work:
        search.likely(grid.preset(stage, "fsdp:1", []), "v5p:4x4x4", OPTIONS)
        return found.work

    return of


def test_conversion_has_no_optimizer_and_replicates_its_sums(work_of):
    work = work_of("convert")
    assert not work.trains and work.spec.text.attention == "gqa"
    assert work.parameters == 8_767_123_696
    setting = arithmetic.Setting(4, 1, 1, 1, "none")
    found = arithmetic.memory(work, setting)
    assert "gradients" not in found and found["state"] == 4 * work.parameters / 4
    # Per layer: products of inputs with inputs, queries, keys and values; of keys and values with
    # themselves; and of the queries of each head.
    layer = 4097 * (4097 + 4096 + 2 * 1024) + 2048**2 + 32 * 128**2
    assert found["sums"] == 4 * 36 * layer
    # Features of a layer without gradients: tokens of two packs in bfloat16.
    weights = 4096 * (2 * 4096 + 2 * 1024) + 3 * 4096 * 12288
    assert found["working"] == 2 * weights + 2 * 65536 * (4 * 4096 + 4 * 12288)
    # More devices shard the state and not the sums.
    more = arithmetic.memory(work, arithmetic.Setting(8, 1, 1, 1, "none"))
    assert more["state"] == found["state"] / 2 and more["sums"] == found["sums"]


def test_conversion_neither_splits_nor_accumulates_packs(work_of):
    work = work_of("convert")
    found = list(arithmetic.settings(work, 4))
    assert [(setting.fsdp, setting.tensor) for setting in found] == [(1, 4), (2, 2), (4, 1)]
    assert {(s.context, s.accumulation, s.remat) for s in found} == {(1, 1, "none")}
    # Eight packs cannot be sharded over sixteen devices along packs alone.
    assert {setting.fsdp for setting in arithmetic.settings(work, 16)} == {1, 2, 4, 8}


def test_size_of_sums_matches_program():
    config = experiments.load(ROOT / "experiments" / "convert.py", "tiny")
    config.mesh.update(replica=1, fsdp=1, cpu_devices=0)
    config.data.update(batch_packs=1, pack_tokens=64, pack_patches=48)
    mesh = make_mesh(dict.fromkeys(AXES, 1), jax.devices()[:1])
    program = from_config.programs.program(config, mesh, teacher="small")
    made = program.function.trace(*program.arguments).out_info
    text = spec.tiny("gqa").text
    # The program also returns energies of queries and keys, and a complex number per head pair.
    others = 4 * text.depth * (2 + text.heads * text.head_dim)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(made))
    assert 4 * flop_counts.statistics(spec.tiny("gqa")) + others == size


def test_teacher_of_distillation_takes_memory(work_of):
    work = work_of("opd")
    assert work.trains and work.teacher.text.depth == 64
    setting = arithmetic.Setting(32, 1, 2, 1, "attention")
    alone = dataclasses.replace(work, teacher=None, teacher_parameters=0)
    found, without = (arithmetic.memory(case, setting) for case in (work, alone))
    assert found.pop("teacher") == 4 * work.teacher_parameters / 64
    assert work.teacher_parameters > 32e9
    # None of its activations are kept, and no layer of the student runs at the same time.
    assert found["working"] >= without["working"]
    assert found | {"working": 0} == without | {"working": 0}


def test_teacher_runs_forward_once(work_of):
    """Its products run at the pace of products, its attention at that of grouped heads."""
    work, chip = work_of("opd"), chips.CHIPS["v5p"]
    setting = arithmetic.Setting(64, 1, 1, 1, "attention")
    own = {part: n for part, n in work.flops.items() if not part.startswith("teacher")}
    alone = dataclasses.replace(work, teacher=None, teacher_parameters=0, flops=own)
    more = arithmetic.seconds(work, setting, chip) - arithmetic.seconds(alone, setting, chip)
    taught = {part: n for part, n in work.flops.items() if part not in own}
    least = sum(taught.values()) / (64 * chip.peak)
    assert least < more < 1.6 * least


def test_conversion_runs_forward_once(work_of):
    """On one device there are no exchanges."""
    work, chip = work_of("convert"), chips.CHIPS["v5p"]
    took = arithmetic.seconds(work, arithmetic.Setting(1, 1, 1, 1, "none"), chip)
    paces = {
        "attention": estimate.kernel_share(chip, "dense_attention", "grouped"),
        "vision attention": estimate.kernel_share(chip, "vision_attention"),
    }
    whole = sum(flops / paces.get(part, 0.85) for part, flops in work.flops.items())
    assert took == pytest.approx(whole / chip.peak)
