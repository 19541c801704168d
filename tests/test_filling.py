"""Filling packs and levelling batches, on sizes alone."""

import dataclasses
import importlib
import itertools

import numpy as np
import pytest

from data_pipelines import filling, packing, plan
from data_pipelines.filling import Sizes
from data_pipelines.packing import Size
from data_pipelines.synthetic import lengths
from ivx import build
from ivx.commands.bench import packing as bench

SHAPE = packing.PackShape(tokens=100, patches=96, slice_block=48)


def some_sizes(count: int, seed: int = 0) -> Sizes:
    """Of one to three media each; all fit alone."""
    rng = np.random.default_rng(seed)
    sizes = []
    for _ in range(count):
        runs = [(int(rng.choice([16, 24, 36])), 1) for _ in range(rng.integers(0, 3))]
        sizes.append(Size(int(rng.integers(5, 60)), tuple(runs)))
    return Sizes.of(sizes)


def test_rows_of_runs_are_those_of_slices_placed_one_by_one():
    rng = np.random.default_rng(0)
    for _ in range(500):
        block = int(rng.integers(4, 40))
        runs = [(int(rng.integers(1, block + 1)), int(rng.integers(1, 12))) for _ in range(3)]
        cursor = int(rng.integers(0, 3 * block))
        slices = [size for size, count in runs for _ in range(count)]
        expected = packing.place_slices(slices, cursor, block)[1]
        assert packing.rows_after(runs, cursor, block) == expected


def test_every_sample_is_in_one_pack_and_no_pack_is_too_full():
    sizes = some_sizes(300)
    packs = filling.fill(sizes, SHAPE)
    assert sorted(index for pack in packs for index in pack) == list(range(300))
    listed = list(sizes)
    for pack in packs:
        assert sum(listed[index].tokens for index in pack) <= SHAPE.tokens
        slices = [patches for index in pack for patches, _ in listed[index].runs]
        assert packing.place_slices(slices, 0, SHAPE.slice_block)[1] <= SHAPE.patches


def test_where_pictures_have_no_room_text_fills_the_gap():
    """The patches of a pack are used up by its first sample; what has none still fits."""
    picture, words = Size(10, ((48, 2),)), Size(30, ())
    packs = filling.fill(Sizes.of([picture, picture, words, words, words, words]), SHAPE)
    assert packs == [[0, 2, 3, 4], [1, 5]]


@pytest.mark.parametrize("name", bench.SETTINGS)
def test_published_lengths_are_packed_full_and_even(name):
    """Of tokens, at least 97 % hold one; packs of a step cost alike, 128 or 8 of them."""
    row = bench.measure(name, 20_000)
    assert row["token_fill"] >= 0.97
    assert row["unevenness"] < 1.1 < row["unevenness_as_filled"]
    assert row["host_unevenness"] < 1.02
    assert row["dropped"] < 0.05 * row["samples"]
    assert 0 < row["dropped_tokens"] < 1


def test_samples_too_long_are_those_that_all_but_fill_the_budget_of_pixels():
    """At the full budget of pixels there is no room for the text, as in the release.

    Nor for what blocks leave empty behind slices that do not divide them.
    """
    setting = bench.SETTINGS["sft_long"]
    sizes = lengths.draw(setting.stage, 2000, seed=1)
    left_out = [packing.misfit(size, setting.shape) is not None for size in sizes]
    assert any(left_out) and (sizes.patches()[left_out] > 0.85 * setting.shape.patches).all()


def test_columns_hold_what_single_sizes_do():
    sizes = some_sizes(50)
    chosen = np.array([7, 7, 0, 49, 12])
    listed = list(sizes)
    assert list(sizes.take(chosen)) == [listed[i] for i in chosen]
    assert list(Sizes.join([sizes, sizes.take(chosen)])) == listed + [listed[i] for i in chosen]
    assert sizes.patches().tolist() == [sum(p * n for p, n in size.runs) for size in listed]


def members(*counts_and_ratios: tuple[int, float]) -> list[plan.Member]:
    """Data sets whose samples are their own names."""
    return [
        plan.Member(plan.Measured([(m, i) for i in range(count)], some_sizes(count, m), []), ratio)
        for m, (count, ratio) in enumerate(counts_and_ratios)
    ]


def test_a_mixture_takes_each_sample_by_its_ratio():
    """Twice an epoch, and the first half of a data set, as the release repeats them."""
    drawn = np.concatenate([plan.draw(members((20, 2.0), (30, 0.5)), 0, epoch) for epoch in (0, 1)])
    counts = np.bincount(drawn, minlength=50)
    assert counts.tolist() == [4] * 20 + [2] * 15 + [0] * 15


@pytest.mark.parametrize("name", ["cpt", "sft_short", "sft_long"])
def test_the_bench_packs_as_the_experiments_do(name):
    """Packs of a step, room, frames and budgets of the published configs."""
    [setting] = [one for names, one in bench.SETTINGS.items() if name in names.split(", ")]
    config = importlib.import_module(f"experiments.{name}").get_config("8b")
    config.data.tokenizer, config.model.preset = "compact", "tiny"
    rule = build.layout_rule(config)
    assert setting.shape == build.pack_shape(config)
    assert setting.batch == config.data.batch_packs
    stage = setting.stage
    assert (stage.frame_rule, stage.budget) == (rule.frame_rule, rule.budget)
    assert stage.image_budget == rule.image_budget


def test_no_sample_is_lost_between_epochs():
    """What makes no whole batch goes into the next epoch, and before all others."""
    mixture = members((40, 1.0), (23, 1.5))
    planned = plan.make_plan(mixture, SHAPE, count=400, batch=4, seed=3)
    packed = [sample for pack in planned.packs for sample in pack]
    drawn = np.concatenate([plan.draw(mixture, 3, epoch) for epoch in range(planned.epochs - 2)])
    names = [(0, i) for i in range(40)] + [(1, i) for i in range(23)]
    seen = {name: packed.count(name) for name in names}
    for name, count in zip(names, np.bincount(drawn, minlength=63), strict=True):
        assert seen[name] >= count


def test_few_samples_make_a_batch_of_several_epochs():
    planned = plan.make_plan(members((3, 1.0)), SHAPE, count=8, batch=8, seed=0)
    assert len(planned.packs) == 8 and planned.epochs > 3


def test_the_same_seed_gives_the_same_plan_and_epochs_differ():
    mixture = members((40, 1.0))
    plans = [plan.make_plan(mixture, SHAPE, 12, 4, seed) for seed in (0, 0, 1)]
    first, again, other = [list(planned.packs) for planned in plans]
    assert first == again != other
    assert not np.array_equal(plan.draw(mixture, 0, 0), plan.draw(mixture, 0, 1))


def test_a_plan_may_leave_batches_to_chance():
    """The packs are the same; a batch that is not levelled has dear ones and cheap ones."""
    mixture = members((60, 1.0), (30, 1.0))
    levelled, random = [
        plan.make_plan(mixture, SHAPE, 16, 4, seed=0, level=level) for level in (True, False)
    ]
    assert levelled.epochs == random.epochs == 1
    assert levelled.unevenness < random.unevenness
    again = plan.make_plan(mixture, SHAPE, 16, 4, seed=0, level=False)
    assert list(again.packs) == list(random.packs)


def test_levelled_batches_hold_packs_of_like_cost():
    cost = np.random.default_rng(0).lognormal(0, 1, 64)
    order = filling.level(cost, 8, np.random.default_rng(1))
    assert sorted(order) == list(range(64))
    assert filling.unevenness(cost[order], 8) < filling.unevenness(cost, 8)
    spans = sorted((row.min(), row.max()) for row in cost[order].reshape(-1, 8))
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_a_plan_says_how_full_it_is():
    [member] = members((30, 1.0))
    exact = dataclasses.replace(SHAPE, tokens=int(member.measured.sizes.tokens.max()))
    planned = plan.make_plan([member], exact, count=6, batch=2, seed=0)
    tokens = member.measured.sizes.tokens
    held = sum(tokens[i] for pack in planned.packs for _, i in pack)
    assert planned.token_fill == held / (6 * exact.tokens)
