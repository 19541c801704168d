"""The questions of rollouts: their order, prefetching, and unreadable videos."""

import dataclasses
import itertools
import threading
from unittest import mock

import numpy as np
import pytest

from data_pipelines import sources
from data_pipelines.layout import LayoutRule
from data_pipelines.loader import LoaderOptions
from ivx.errors import UserError
from ivx.evaluation import runner
from ivx.parallel import across_hosts
from ivx.parallel.batches import PackShare
from ivx.stages.questions import Order, Questions

COUNT, SEED = 4, 7
OPTIONS = LoaderOptions(workers=0, threads=2, prefetch=2, cache_bytes=2**26)


@pytest.fixture(scope="module")
def samples(data_folder) -> list[sources.Sample]:
    [member] = sources.read_mixture(data_folder / "data.json", ("synthetic_test",))
    return [runner.as_prompt(sample) for sample in sources.read_samples(member)]


def without_videos(samples, count: int) -> list[sources.Sample]:
    """The samples, the first `count` of them with a missing video."""
    video = dataclasses.replace(samples[0].videos[0], path="/nowhere.mp4")
    broken = [dataclasses.replace(sample, videos=(video,)) for sample in samples[:count]]
    return [*broken, *samples[count:]]


def ids(questions) -> list[str]:
    return [question.sample.id for question in questions]


def test_every_question_comes_once_per_epoch(samples):
    order = Order(samples, SEED)
    size = len(samples)
    epochs = [[order[i].id for i in range(size * k, size * (k + 1))] for k in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(sample.id for sample in samples)
    assert epochs[0] != epochs[1]


def test_prefetched_questions_equal_fresh_ones(samples, rule):
    """In sequence, after a jump, and with a new reader."""
    order, reader = Order(samples, SEED), Questions(samples, rule, COUNT, SEED, OPTIONS)
    for number in (0, 1, 2, 9, 10, 3):
        indices = range(number * COUNT, (number + 1) * COUNT)
        assert ids(reader.rollout(number)[0]) == [order[index].id for index in indices]
        fresh = Questions(samples, rule, COUNT, SEED, OPTIONS).rollout(number)[0]
        for question, again in zip(reader.rollout(number)[0], fresh, strict=True):
            assert (question.layout.tokens == again.layout.tokens).all()
            assert all(
                (a == b).all() for a, b in zip(question.pixels[0], again.pixels[0], strict=True)
            )


def test_next_rollout_is_prefetched(samples, rule):
    read, enough = set(), threading.Event()

    def recorded(sample, generate):
        read.add(sample.id)
        if len(read) >= 2 * COUNT:
            enough.set()
        return rule.lay_out(sample, generate)

    spy = mock.Mock(spec=LayoutRule, lay_out=recorded)
    reader = Questions(samples, spy, COUNT, SEED, OPTIONS)
    reader.rollout(0)
    assert enough.wait(30)
    order = Order(samples, SEED)
    assert read >= {order[index].id for index in range(2 * COUNT)}


def test_unreadable_video_is_replaced_by_the_next(samples, rule):
    damaged = without_videos(samples, len(samples) // 2)
    order, reader = Order(damaged, SEED), Questions(damaged, rule, COUNT, SEED, OPTIONS)
    reasons = []
    for number in range(3):
        questions, skipped = reader.rollout(number)
        reasons += skipped
        good = (
            order[index].id
            for index in itertools.count(number * COUNT)
            if order[index].videos[0].path != "/nowhere.mp4"
        )
        assert sorted(ids(questions)) == sorted(itertools.islice(good, COUNT))
    assert reasons and all("nowhere.mp4" in reason for reason in reasons)


def test_hosts_together_have_the_questions_of_a_single_host(samples, rule):
    """For every assignment of batch positions to hosts."""
    order = Order(samples, SEED)
    for held in ([(0, 1), (2, 3)], [(0, 2), (1, 3)], [(3,), (1,), (0,), (2,)]):
        for number in (0, 3):
            by_place = {}
            for index, places in enumerate(held):
                share = PackShare(index, len(held), places, True)
                questions, _ = Questions(samples, rule, COUNT, SEED, OPTIONS, share).rollout(number)
                by_place |= dict(zip(places, ids(questions), strict=True))
            first = number * COUNT
            assert [by_place[k] for k in range(COUNT)] == [
                order[first + k].id for k in range(COUNT)
            ]


def test_hosts_use_distinct_replacements(samples, rule):
    damaged = without_videos(samples, len(samples) // 2)
    all_ids = []
    for index in range(2):
        share = PackShare(index, 2, (2 * index, 2 * index + 1), True)
        questions, skipped = Questions(damaged, rule, COUNT, SEED, OPTIONS, share).rollout(0)
        all_ids += ids(questions)
    assert skipped and len(all_ids) == COUNT == len(set(all_ids))


def test_hosts_with_same_rows_skip_the_same_videos(samples, rule, monkeypatch):
    """Two hosts have the same rows; the other one, simulated here, cannot read two videos."""
    order, elsewhere = Order(samples, SEED), {1, 4}

    def gathered(values):
        index, *indices = values
        theirs = [*elsewhere, *[-1] * len(indices)][: len(indices)]
        return np.array([values, [index, *theirs], [index + 1, *[7] * len(indices)]])

    def largest(values):
        return [max(v, len(elsewhere)) if type(v) is int else v for v in values]

    monkeypatch.setattr(across_hosts, "gathered", gathered)
    monkeypatch.setattr(across_hosts, "largest", largest)
    questions, skipped = Questions(samples, rule, COUNT, SEED, OPTIONS).rollout(0)
    assert ids(questions) == [order[index].id for index in (0, 2, 3, 5)]
    assert [reason.cause for reason in skipped] == ["elsewhere"] * 2


def test_single_readable_video_is_repeated(samples, rule):
    reader = Questions(without_videos(samples[:3], 2), rule, 2 * COUNT, SEED, OPTIONS)
    questions, skipped = reader.rollout(0)
    assert ids(questions) == [samples[2].id] * 2 * COUNT and len(skipped) > 3


def test_data_without_readable_videos_raise_user_error(samples, rule):
    reader = Questions(without_videos(samples[:3], 3), rule, COUNT, SEED, OPTIONS)
    with pytest.raises(
        UserError, match=r"none of 3 videos can be read; the last error: sample .*nowhere"
    ):
        reader.rollout(0)
