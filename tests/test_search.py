"""What `--search` tries: arithmetic orders meshes, micro-batches and remat policies."""

import dataclasses
import types
from collections.abc import Callable

import jax
import pytest

from ivx.aot import arithmetic, chips, estimate
from ivx.build import dataless
from ivx.commands import config_flag
from ivx.commands.compile import cells, search, step
from ivx.models import spec, work
from ivx.parallel.mesh import AXES, make_mesh
from tests.conftest import ROOT


def a_work() -> arithmetic.Work:
    """Of continued pretraining."""
    tokens, patches, packs = 65536, 262144, 128
    parts = work.forward(spec.base_8b(), tokens, tokens**2 // 2, patches, 784)
    flops = {part: packs * n for part, n in work.training(parts).items()}
    return arithmetic.Work(spec.base_8b(), 9_484_672_240, packs, tokens, patches, flops)


def test_likely_settings_make_up_the_devices_and_may_fit():
    chip = chips.CHIPS["v5e"]
    found = arithmetic.likely(a_work(), chip, 256, share=0.9)
    assert len(found) > 20
    for one in found:
        assert one.devices == 256 and 128 % (one.fsdp * one.accumulation) == 0
        assert sum(arithmetic.memory(a_work(), one).values()) <= 0.9 * chip.memory
    times = [arithmetic.seconds(a_work(), one, chip) for one in found]
    assert times == sorted(times)
    assert not arithmetic.likely(a_work(), chip, 4, share=0.9)


@pytest.mark.parametrize(
    ("policy", "less", "size"),
    [
        # Of each token and layer: the latent, what 32 heads gave in bfloat16, a sum of a softmax
        # each.
        ("attention", "layer", 65536 * 36 * (2 * 1024 + 2 * 4096 + 4 * 32)),
        # Of each patch and block: what 16 heads gave, a sum each.
        ("all_attention", "attention", 262144 * 27 * (2 * 1152 + 4 * 16)),
    ],
)
def test_what_is_kept_costs_memory_and_saves_time(policy, less, size):
    kept, made = (arithmetic.Setting(64, 1, 1, 2, name) for name in (policy, less))
    chip = chips.CHIPS["v5p"]
    assert arithmetic.seconds(a_work(), kept, chip) < arithmetic.seconds(a_work(), made, chip)
    more = arithmetic.memory(a_work(), kept)["kept"] - arithmetic.memory(a_work(), made)["kept"]
    assert more == size


def test_settings_are_ranked_by_whether_they_fit_and_then_by_time():
    def row(peak: int, seconds: float) -> dict:
        memory = {"peak": peak}
        time = {"hidden": seconds, "exposed": seconds}
        return {"ok": True, "memory": memory, "capacity": 100, "estimate": time, "n": seconds}

    refused = {"ok": False, "n": 0}
    rows = [refused, row(95, 1.0), row(50, 3.0), row(90, 2.0)]
    assert [one["n"] for one in sorted(rows, key=search.rank)[:2]] == [2.0, 3.0]


ASKING = step.Asking(timeout=1.0, pace=0.9, slice_patches=784, teacher="32b")


@pytest.fixture
def asked(monkeypatch) -> Callable[[str], arithmetic.Work]:
    """What `--search` asks arithmetic for, of the 8b preset of a stage."""
    found = types.SimpleNamespace()

    def likely(work, chip, devices, share):
        found.work, found.devices = work, devices
        return []

    monkeypatch.setattr(arithmetic, "likely", likely)

    def of(stage: str) -> arithmetic.Work:
        search.likely(cells.preset(stage, "fsdp:1", []), "v5p:4x4x4", ASKING)
        return found.work

    return of


def test_a_conversion_has_no_optimizer_and_its_sums_on_every_device(asked):
    work = asked("convert")
    assert not work.trains and work.spec.text.attention == "gqa"
    assert work.parameters == 8_767_123_696
    setting = arithmetic.Setting(4, 1, 1, 1, "none")
    found = arithmetic.memory(work, setting)
    assert "gradients" not in found and found["state"] == 4 * work.parameters / 4
    # Of a layer: inputs with themselves, with queries, keys and values; keys and values with
    # themselves, and queries of each head.
    layer = 4097 * (4097 + 4096 + 2 * 1024) + 2048**2 + 32 * 128**2
    assert found["sums"] == 4 * 36 * layer
    # Features of a layer, without their gradients: two packs' tokens, in bfloat16.
    weights = 4096 * (2 * 4096 + 2 * 1024) + 3 * 4096 * 12288
    assert found["working"] == 2 * weights + 2 * 65536 * (4 * 4096 + 4 * 12288)
    # On more devices, state is spread and sums are not.
    more = arithmetic.memory(work, arithmetic.Setting(8, 1, 1, 1, "none"))
    assert more["state"] == found["state"] / 2 and more["sums"] == found["sums"]


def test_packs_of_a_conversion_are_not_cut_nor_taken_in_turns(asked):
    work = asked("convert")
    found = list(arithmetic.settings(work, 4))
    assert [(one.fsdp, one.tensor) for one in found] == [(1, 4), (2, 2), (4, 1)]
    assert {(one.context, one.accumulation, one.remat) for one in found} == {(1, 1, "none")}
    # Eight packs are not spread over sixteen devices by packs alone.
    assert {one.fsdp for one in arithmetic.settings(work, 16)} == {1, 2, 4, 8}


def test_sums_are_as_large_as_those_that_are_made():
    config = config_flag.load(ROOT / "experiments" / "convert.py", "tiny")
    config.mesh.update(replica=1, fsdp=1, cpu_devices=0)
    config.data.update(batch_packs=1, pack_tokens=64, pack_patches=48)
    mesh = make_mesh(dict.fromkeys(AXES, 1), jax.devices()[:1])
    asked = dataless.program(config, mesh, teacher="small")
    made = asked.function.trace(*asked.arguments).out_info
    text = spec.tiny("gqa").text
    # Beside them the energies of queries and keys, and a complex number a pair of a head.
    beside = 4 * text.depth * (2 + text.heads * text.head_dim)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(made))
    assert 4 * work.statistics(spec.tiny("gqa")) + beside == size


def test_distillation_has_a_teacher_that_lies_there(asked):
    work = asked("opd")
    assert work.trains and work.teacher.text.depth == 64
    setting = arithmetic.Setting(32, 1, 2, 1, "attention")
    alone = dataclasses.replace(work, teacher=None, teacher_parameters=0)
    found, without = (arithmetic.memory(one, setting) for one in (work, alone))
    assert found.pop("teacher") == 4 * work.teacher_parameters / 64
    assert work.teacher_parameters > 32e9
    # Nothing of it is kept, and while it runs no layer of the student does.
    assert found["working"] >= without["working"]
    assert found | {"working": 0} == without | {"working": 0}


def test_a_teacher_goes_forward_once(asked):
    """Its products at the pace of products, its attention at that of grouped heads."""
    work, chip = asked("opd"), chips.CHIPS["v5p"]
    setting = arithmetic.Setting(64, 1, 1, 1, "attention")
    own = {part: n for part, n in work.flops.items() if not part.startswith("teacher")}
    alone = dataclasses.replace(work, teacher=None, teacher_parameters=0, flops=own)
    more = arithmetic.seconds(work, setting, chip) - arithmetic.seconds(alone, setting, chip)
    taught = {part: n for part, n in work.flops.items() if part not in own}
    least = sum(taught.values()) / (64 * chip.peak)
    assert least < more < 1.6 * least


def test_a_conversion_goes_forward_once(asked):
    """On one device, which exchanges nothing."""
    work, chip = asked("convert"), chips.CHIPS["v5p"]
    took = arithmetic.seconds(work, arithmetic.Setting(1, 1, 1, 1, "none"), chip)
    paces = {
        "attention": estimate.kernel_share(chip, "dense_attention", "grouped"),
        "vision attention": estimate.kernel_share(chip, "vision_attention"),
    }
    whole = sum(flops / paces.get(part, 0.85) for part, flops in work.flops.items())
    assert took == pytest.approx(whole / chip.peak)
