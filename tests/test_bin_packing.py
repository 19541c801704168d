"""Filling packs and levelling batches, on sizes without pixels."""

import dataclasses
import importlib
import itertools

import numpy as np
import pytest

from benchmarks import packing as bench
from data_pipelines import bin_packing, packing, plan, sources
from data_pipelines.bin_packing import Sizes
from data_pipelines.packing import Size
from data_pipelines.synthetic import lengths
from ivx import from_config

SHAPE = packing.PackShape(tokens=100, patches=96, slice_block=48)


def random_sizes(count: int, seed: int = 0) -> Sizes:
    """Sizes of samples with up to two images; each fits an empty pack."""
    rng = np.random.default_rng(seed)
    sizes = []
    for _ in range(count):
        runs = [(int(rng.choice([16, 24, 36])), 1) for _ in range(rng.integers(0, 3))]
        sizes.append(Size(int(rng.integers(5, 60)), tuple(runs)))
    return Sizes.of(sizes)


def test_rows_after_matches_place_slices():
    rng = np.random.default_rng(0)
    for _ in range(500):
        block = int(rng.integers(4, 40))
        runs = [(int(rng.integers(1, block + 1)), int(rng.integers(1, 12))) for _ in range(3)]
        cursor = int(rng.integers(0, 3 * block))
        slices = [size for size, count in runs for _ in range(count)]
        expected = packing.place_slices(slices, cursor, block)[1]
        assert packing.rows_after(runs, cursor, block) == expected


def test_fill_packs_every_sample_once_within_capacity():
    sizes = random_sizes(300)
    packs = bin_packing.fill(sizes, SHAPE)
    assert sorted(index for pack in packs for index in pack) == list(range(300))
    listed = list(sizes)
    for pack in packs:
        assert sum(listed[index].tokens for index in pack) <= SHAPE.tokens
        slices = [patches for index in pack for patches, _ in listed[index].runs]
        assert packing.place_slices(slices, 0, SHAPE.slice_block)[1] <= SHAPE.patches


def test_text_fills_packs_whose_patches_are_used_up():
    """The first sample of a pack uses up its patches; samples without media still fit."""
    image, text = Size(10, ((48, 2),)), Size(30, ())
    packs = bin_packing.fill(Sizes.of([image, image, text, text, text, text]), SHAPE)
    assert packs == [[0, 2, 3, 4], [1, 5]]


@pytest.mark.parametrize("name", bench.SETTINGS)
def test_published_lengths_give_full_and_even_packs(name):
    """At least 97 % of token positions are used; the packs of a step, 128 or 8, cost alike."""
    row = bench.measure(name, 20_000)
    assert row["token_fill"] >= 0.97
    assert row["unevenness"] < 1.1 < row["unevenness_as_filled"]
    assert row["host_unevenness"] < 1.02
    assert row["dropped"] < 0.05 * row["samples"]
    assert 0 < row["dropped_tokens"] < 1


def test_dropped_samples_nearly_fill_the_pixel_budget():
    """A video of the full pixel budget leaves no room for text, as in the release.

    Slices that do not divide a block leave rows empty too.
    """
    setting = bench.SETTINGS["sft_long"]
    sizes = lengths.draw(setting.stage, 2000, seed=1)
    left_out = [packing.misfit(size, setting.shape) is not None for size in sizes]
    assert any(left_out) and (sizes.patches()[left_out] > 0.85 * setting.shape.patches).all()


def test_size_columns_match_single_sizes():
    sizes = random_sizes(50)
    chosen = np.array([7, 7, 0, 49, 12])
    listed = list(sizes)
    assert list(sizes.take(chosen)) == [listed[i] for i in chosen]
    assert list(Sizes.join([sizes, sizes.take(chosen)])) == listed + [listed[i] for i in chosen]
    assert sizes.patches().tolist() == [sum(p * n for p, n in size.runs) for size in listed]


def members(*counts_and_ratios: tuple[int, float]) -> list[plan.Member]:
    """Data sets whose samples have the ids "member/index"."""
    result = []
    for m, (count, ratio) in enumerate(counts_and_ratios):
        samples = [sources.Sample(f"{m}/{i}", (), ()) for i in range(count)]
        measured = plan.MeasuredSamples(samples, random_sizes(count, m), [])
        result.append(plan.Member(measured, ratio))
    return result


def test_epoch_repeats_samples_by_ratio():
    """Ratio 2 takes all samples twice, 0.5 the first half, as in the release."""
    drawn = np.concatenate(
        [plan.draw_epoch(members((20, 2.0), (30, 0.5)), 0, epoch) for epoch in (0, 1)]
    )
    counts = np.bincount(drawn, minlength=50)
    assert counts.tolist() == [4] * 20 + [2] * 15 + [0] * 15


@pytest.mark.parametrize("name", ["cpt", "sft_short", "sft_long"])
def test_benchmark_settings_match_the_experiments(name):
    """Packs per step, pack shape, frames and pixel budgets are those of the published configs."""
    [setting] = [s for names, s in bench.SETTINGS.items() if name in names.split(", ")]
    config = importlib.import_module(f"experiments.{name}").get_config("8b")
    config.data.tokenizer, config.model.preset = "compact", "tiny"
    rule = from_config.data.layout_rule(config)
    assert setting.shape == from_config.data.pack_shape(config)
    assert setting.batch == config.data.batch_packs
    stage = setting.stage
    assert (stage.frame_rule, stage.budget) == (rule.frame_rule, rule.budget)
    assert stage.image_budget == rule.image_budget


def test_carried_samples_are_packed_in_the_next_epoch():
    """Samples that fill no batch come first in the next epoch."""
    mixture = members((40, 1.0), (23, 1.5))
    planned = plan.make_plan(mixture, SHAPE, count=400, batch=4, seed=3)
    packed = [sample.id for pack in planned.packs for sample in pack]
    drawn = np.concatenate(
        [plan.draw_epoch(mixture, 3, epoch) for epoch in range(planned.epochs - 2)]
    )
    ids = [f"0/{i}" for i in range(40)] + [f"1/{i}" for i in range(23)]
    for sample_id, count in zip(ids, np.bincount(drawn, minlength=63), strict=True):
        assert packed.count(sample_id) >= count


def test_few_samples_fill_a_batch_over_several_epochs():
    planned = plan.make_plan(members((3, 1.0)), SHAPE, count=8, batch=8, seed=0)
    assert len(planned.packs) == 8 and planned.epochs > 3


def test_seed_determines_the_plan_and_epochs_differ():
    mixture = members((40, 1.0))
    plans = [plan.make_plan(mixture, SHAPE, 12, 4, seed) for seed in (0, 0, 1)]
    first, again, other = [list(planned.packs) for planned in plans]
    assert first == again != other
    assert not np.array_equal(plan.draw_epoch(mixture, 0, 0), plan.draw_epoch(mixture, 0, 1))


def test_plan_without_levelling_is_less_even():
    """Both plans have the same packs; without levelling, a batch mixes costly and cheap ones."""
    mixture = members((60, 1.0), (30, 1.0))
    levelled, random = [
        plan.make_plan(mixture, SHAPE, 16, 4, seed=0, level=level) for level in (True, False)
    ]
    assert levelled.epochs == random.epochs == 1
    assert levelled.unevenness < random.unevenness
    again = plan.make_plan(mixture, SHAPE, 16, 4, seed=0, level=False)
    assert list(again.packs) == list(random.packs)


def test_levelled_batches_have_packs_of_similar_cost():
    cost = np.random.default_rng(0).lognormal(0, 1, 64)
    order = bin_packing.level(cost, 8, np.random.default_rng(1))
    assert sorted(order) == list(range(64))
    assert bin_packing.unevenness(cost[order], 8) < bin_packing.unevenness(cost, 8)
    spans = sorted((row.min(), row.max()) for row in cost[order].reshape(-1, 8))
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_plan_reports_token_fill():
    [member] = members((30, 1.0))
    exact = dataclasses.replace(SHAPE, tokens=int(member.measured.sizes.tokens.max()))
    planned = plan.make_plan([member], exact, count=6, batch=2, seed=0)
    tokens = member.measured.sizes.tokens
    total = sum(tokens[int(s.id.removeprefix("0/"))] for pack in planned.packs for s in pack)
    assert planned.token_fill == total / (6 * exact.tokens)
