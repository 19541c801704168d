"""What `--search` tries: arithmetic orders meshes, micro-batches and remat policies."""

from ivx.aot import arithmetic, chips
from ivx.commands.compile import search
from ivx.models import spec, work


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


def test_what_is_kept_costs_memory_and_saves_time():
    kept = arithmetic.Setting(64, 1, 1, 2, "attention")
    made = arithmetic.Setting(64, 1, 1, 2, "layer")
    chip = chips.CHIPS["v5p"]
    assert arithmetic.seconds(a_work(), kept, chip) < arithmetic.seconds(a_work(), made, chip)
    more = arithmetic.memory(a_work(), kept)["kept"] - arithmetic.memory(a_work(), made)["kept"]
    # Of each token and layer: the latent, what 32 heads gave in bfloat16, a sum of a softmax each.
    assert more == 65536 * 36 * (2 * 1024 + 2 * 4096 + 4 * 32)


def test_settings_are_ranked_by_whether_they_fit_and_then_by_time():
    def row(peak: int, seconds: float) -> dict:
        memory = {"peak": peak}
        time = {"hidden": seconds, "exposed": seconds}
        return {"ok": True, "memory": memory, "capacity": 100, "estimate": time, "n": seconds}

    refused = {"ok": False, "n": 0}
    rows = [refused, row(95, 1.0), row(50, 3.0), row(90, 2.0)]
    assert [one["n"] for one in sorted(rows, key=search.rank)[:2]] == [2.0, 3.0]
