"""Schedules of the TPU compiler are read, and kernels compile without a TPU if libtpu is there."""

import pathlib

import pytest

from benchmarks.schedules import bundles, compiled_case, schedule
from ivx.aot import child, chips, library, topology
from ivx.errors import UserError
from ivx.kernels.case import KernelCase
from tests.small_kernel import cases

SLOTS = "MXU, XLU, VALU, VPOP, EUP, VLOAD, VLOAD:FILL, VSTORE, VSTORE:SPILL, SALU"
ROOM = "2 2 4 2 1 3 3 2 2 2"


def dump(folder: pathlib.Path, listing: list[tuple[str, str]]) -> pathlib.Path:
    """Writes the files of a kernel named `op`, from (instructions, slots) of each bundle."""
    texts = [f"{number:#5x}   : > {{ {text} }}" for number, (text, _) in enumerate(listing)]
    memory = (
        "  #allocation0 [shape = 'f32[8,128]', space=vmem, size = 0x1000, scoped, tag = 'x']\n"
        "  #allocation1 [shape = 's32[2]', space=sflag, size = 0x8, scoped, tag = 'y']\n"
    )
    spilled = "  #allocation2_spill [shape = 'u8[4096]', space=vmem, size = 0x1000, scoped]\n"
    kinds = {
        "02-original": memory,
        "64-schedule-analysis_packed-bundles-post-ra": "%op.1 = custom-call(), tpu_custom_call",
        "65-packed-bundles-post-ra": "LB: loop body\n\n" + "\n".join(texts),
        "66-post-bundle-packing-post-ra": memory + spilled,
        "68-pre-delay_hlo-static-per-bundle-utilization": "\n".join(
            ["== CAPACTIY:", SLOTS, ROOM, "== UTILIZATION:", *(used for _, used in listing)]
        ),
    }
    for kind, text in kinds.items():
        (folder / f"123-op.1-{kind}.txt").write_text(text)
    return folder


def line(text: str = "", mxu: int = 0, valu: int = 0, spills: int = 0) -> tuple[str, str]:
    return text, f"{mxu} 0 {valu} 0 0 0 {spills} {spills} {spills} 0"


# A loop of 30 bundles after 2 of setup: one path with a mask, one without, and a jump back.
COPY = "%1 = dma.hbm_to_vmem /*hbm=*/%s1, /*size_in_granules=*/64, /*vmem=*/%s2"
WITHOUT = [line("%2 = vmatpush.bf16", mxu=2, valu=1)] * 8
WITH = [line("%3 = vmatmul.bf16", mxu=2, valu=4, spills=1)] * 8 + [line(valu=4)] * 2
LOOP = [
    line(),
    line(),
    line(COPY),
    line("%4 = sbr.rel (%p1) target bundleno = 16 (0x10), region = 1"),
    *[line()] * 4,
    *WITHOUT,
    line("%5 = sbr.rel (%p2) target bundleno = 31 (0x1f), region = 2"),
    *[line()] * 4,
    *WITH,
    line("%6 = sbr.rel (!%p3) target bundleno = 2 (0x2), region = 3"),
    *[line()] * 4,
]


@pytest.fixture
def listing(tmp_path) -> bundles.Listing:
    [found] = bundles.read(dump(tmp_path, LOOP))
    return found


def test_sections_end_at_branches_and_know_their_loop(listing):
    assert (listing.name, listing.vmem, listing.spilled) == ("op", 8192, 4096)
    found = [(one.start, one.cycles, one.loop, one.conditional) for one in listing.sections]
    assert found == [
        (0, 2, -1, False),
        (2, 6, 2, False),
        (8, 8, 2, True),
        (16, 5, 2, False),
        (21, 10, 2, True),
        (31, 5, 2, False),
    ]
    assert listing.sections[1].bytes_in == 64 * 32
    assert listing.sections[2].pushes == 8


def a_case(flops: float, loaded: float = 2048.0) -> KernelCase:
    return KernelCase("a", "op", lambda: None, (), flops, loaded, "a block", flops, loaded)


def test_shorter_of_two_paths_is_hot(listing):
    chip = chips.CHIPS["v6e"]
    full = 8 * 2 * 256**2 * 2 * 2  # eight bundles with two rows in both units
    found = schedule.judge(a_case(full), chip, [listing])
    [one] = found.kernels
    assert (one.cycles, one.around, one.sometimes, one.other_ways) == (8, 16, 0, (10,))
    assert one.matrix == 1.0 and one.bottleneck == "MXU" and one.spills == (0, 0)
    assert found.cycles == 24 and found.done == 1.0
    assert found.schedule == pytest.approx(24 / 1.75e9, rel=1e-3)
    assert found.compute == pytest.approx(8 / 1.75e9, rel=1e-3)
    assert found.useful == pytest.approx(8 / 24)


def test_step_has_both_paths_if_one_has_too_few_flops(listing):
    both = 2 * 8 * 2 * 256**2 * 2 * 2
    found = schedule.judge(a_case(both), chips.CHIPS["v6e"], [listing])
    assert found.kernels[0].cycles == 18 and found.kernels[0].spills == (8, 8)


def test_memory_bound_step_takes_time_of_memory(listing):
    found = schedule.judge(a_case(1.0, loaded=1640e9), chips.CHIPS["v6e"], [listing])
    assert found.modelled == found.hbm == 1.0


def test_inconsistent_dump_is_rejected(tmp_path):
    folder = dump(tmp_path, LOOP)
    path = folder / "123-op.1-68-pre-delay_hlo-static-per-bundle-utilization.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(bundles.UnreadableDump, match="has 36 bundles, but utilization of 35"):
        bundles.read(folder)


def test_clocks_follow_from_published_peaks():
    assert {name: round(chip.clock / 1e9, 2) for name, chip in chips.CHIPS.items()} == {
        "v5e": 1.5,
        "v5p": 1.75,
        "v6e": 1.75,
        "tpu7x": 2.2,
    }


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("v6e", "is not a topology; write chip:sides"),
        ("v9:2x2", "no chip 'v9'; chips are v5e"),
        ("v6e:4x4x4", "has 2 sides, not 3"),
        ("v5p:1x1x1", "v5p:2x2x1 is the smallest"),
    ],
)
def test_bad_topologies_are_rejected(name, sentence):
    with pytest.raises(UserError, match=sentence):
        topology.parse(name)


def test_half_chips_count_as_devices():
    assert topology.size("tpu7x:4x4x4") == 128 and topology.size("v6e:16x16") == 256


def test_missing_libtpu_names_make_target(monkeypatch, tmp_path):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="`make libtpu`"):
        library.find()


def test_compiler_message_precedes_traceback():
    error = ValueError("INTERNAL: traced here\nMosaic failed to compile TPU kernel: no such dot\nx")
    assert child.sentence(error) == "ValueError: Mosaic failed to compile TPU kernel: no such dot"


def libtpu() -> bool:
    try:
        return bool(library.find())
    except UserError:
        return False


@pytest.mark.skipif(not libtpu(), reason="compiling for TPUs needs libtpu: make libtpu")
def test_small_kernel_compiles_and_large_one_is_rejected():
    good, large = cases("v6e")
    found = compiled_case.compile_case("tests.small_kernel", good, chips.CHIPS["v6e"], 300)
    assert not found.refusal, found.refusal
    # All products are useful, and a schedule cannot be faster than the units.
    assert found.step.done == pytest.approx(1.0)
    assert found.step.schedule >= found.step.compute
    [one] = found.step.kernels
    assert one.name == "small_matmul" and one.copied >= good.block_bytes
    found = compiled_case.compile_case("tests.small_kernel", large, chips.CHIPS["v6e"], 300)
    assert "vmem" in found.refusal
