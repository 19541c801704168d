"""The questions of rollouts: their order, what is read ahead, and videos that cannot be read."""

import dataclasses
import itertools
import threading

import numpy as np
import pytest

from data_pipelines import sources
from data_pipelines.loader import LoaderOptions
from ivx.errors import UserError
from ivx.evaluation import runner
from ivx.parallel import over_hosts
from ivx.parallel.shares import PackShare
from ivx.stages.questions import Order, Questions

COUNT, SEED = 4, 7
OPTIONS = LoaderOptions(workers=0, threads=2, prefetch=2, cache_bytes=2**26)


@pytest.fixture(scope="module")
def samples(data_folder) -> list[sources.Sample]:
    [member] = sources.read_mixture(data_folder / "data.json", ("synthetic_test",))
    return [runner.as_prompt(sample) for sample in sources.read_samples(member)]


def lost(samples, several: int) -> list[sources.Sample]:
    """The samples, the first several without their video."""
    video = dataclasses.replace(samples[0].videos[0], path="/nowhere.mp4")
    broken = [dataclasses.replace(one, videos=(video,)) for one in samples[:several]]
    return [*broken, *samples[several:]]


def ids(found) -> list[str]:
    return [one.sample.id for one in found]


def test_every_question_comes_once_an_epoch(samples):
    order = Order(samples, SEED)
    size = len(samples)
    epochs = [[order[place].id for place in range(size * k, size * (k + 1))] for k in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(one.id for one in samples)
    assert epochs[0] != epochs[1]


def test_what_was_read_ahead_is_what_would_be_read_then(samples, rule):
    """In turn, after a leap, and by a reader that has read nothing before."""
    order, reader = Order(samples, SEED), Questions(samples, rule, COUNT, SEED, OPTIONS)
    for number in (0, 1, 2, 9, 10, 3):
        places = range(number * COUNT, (number + 1) * COUNT)
        assert ids(reader.of(number)[0]) == [order[place].id for place in places]
        fresh = Questions(samples, rule, COUNT, SEED, OPTIONS).of(number)[0]
        for one, again in zip(reader.of(number)[0], fresh, strict=True):
            assert (one.layout.tokens == again.layout.tokens).all()
            assert all((a == b).all() for a, b in zip(one.pixels[0], again.pixels[0], strict=True))


def test_the_next_rollout_is_read_while_this_one_is_answered(samples, rule):
    read, enough = set(), threading.Event()

    def watched(sample, generate):
        read.add(sample.id)
        if len(read) >= 2 * COUNT:
            enough.set()
        return rule(sample, generate)

    reader = Questions(samples, watched, COUNT, SEED, OPTIONS)
    reader.of(0)
    assert enough.wait(30)
    order = Order(samples, SEED)
    assert read >= {order[place].id for place in range(2 * COUNT)}


def test_a_video_that_cannot_be_read_gives_its_place_to_the_next(samples, rule):
    given = lost(samples, len(samples) // 2)
    order, reader = Order(given, SEED), Questions(given, rule, COUNT, SEED, OPTIONS)
    seen = []
    for number in range(3):
        found, skipped = reader.of(number)
        seen += skipped
        good = (
            order[place].id
            for place in itertools.count(number * COUNT)
            if order[place].videos[0].path != "/nowhere.mp4"
        )
        assert sorted(ids(found)) == sorted(itertools.islice(good, COUNT))
    assert seen and all("nowhere.mp4" in sentence for sentence in seen)


def test_hosts_ask_what_one_alone_would(samples, rule):
    """Whichever places of packs they hold."""
    order = Order(samples, SEED)
    for held in ([(0, 1), (2, 3)], [(0, 2), (1, 3)], [(3,), (1,), (0,), (2,)]):
        for number in (0, 3):
            asked = {}
            for index, places in enumerate(held):
                share = PackShare(index, len(held), places, True)
                found, _ = Questions(samples, rule, COUNT, SEED, OPTIONS, share).of(number)
                asked |= dict(zip(places, ids(found), strict=True))
            first = number * COUNT
            assert [asked[k] for k in range(COUNT)] == [order[first + k].id for k in range(COUNT)]


def test_hosts_put_no_question_twice_in_place_of_others(samples, rule):
    given = lost(samples, len(samples) // 2)
    asked = []
    for index in range(2):
        share = PackShare(index, 2, (2 * index, 2 * index + 1), True)
        found, skipped = Questions(given, rule, COUNT, SEED, OPTIONS, share).of(0)
        asked += ids(found)
    assert skipped and len(asked) == COUNT == len(set(asked))


def test_what_one_host_cannot_read_its_twin_leaves_out(samples, rule, monkeypatch):
    """Two hosts with the same rows, of which the other, told of here, cannot read two of them."""
    order, elsewhere = Order(samples, SEED), {1, 4}

    def gathered(values):
        index, *places = values
        theirs = [*elsewhere, *[-1] * len(places)][: len(places)]
        return np.array([values, [index, *theirs], [index + 1, *[7] * len(places)]])

    def largest(values):
        return [max(one, len(elsewhere)) if type(one) is int else one for one in values]

    monkeypatch.setattr(over_hosts, "gathered", gathered)
    monkeypatch.setattr(over_hosts, "largest", largest)
    found, skipped = Questions(samples, rule, COUNT, SEED, OPTIONS).of(0)
    assert ids(found) == [order[place].id for place in (0, 2, 3, 5)]
    assert [one.cause for one in skipped] == ["elsewhere"] * 2


def test_one_readable_video_among_others_is_asked_again_and_again(samples, rule):
    reader = Questions(lost(samples[:3], 2), rule, 2 * COUNT, SEED, OPTIONS)
    found, skipped = reader.of(0)
    assert ids(found) == [samples[2].id] * 2 * COUNT and len(skipped) > 3


def test_data_without_a_readable_video_end_in_one_sentence(samples, rule):
    reader = Questions(lost(samples[:3], 3), rule, COUNT, SEED, OPTIONS)
    with pytest.raises(
        UserError, match=r"none of 3 videos can be read; the last: sample .*nowhere"
    ):
        reader.of(0)
