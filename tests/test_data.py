"""From annotations to batches: layout, packing, plan and loader."""

import dataclasses
import json
import pickle
import shutil

import jax
import numpy as np
import pytest
from grain.multiprocessing import SharedMemoryArray

from data_pipelines import loader, packing, plan, sources
from data_pipelines.positions import positions_3d
from data_pipelines.synthetic import presets, write
from data_pipelines.video.resize import MERGE

OPTIONS = loader.LoaderOptions(workers=0, threads=2, prefetch=2, cache_bytes=2**20)


def test_slice_advances_positions_by_its_longer_side():
    """Two words, a slice of 2 x 3, and a word."""
    is_visual = np.array([0, 0, 1, 1, 1, 1, 1, 1, 0], bool)
    assert positions_3d(is_visual, [(2, 3)]).tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]


def test_positions_reject_slices_that_do_not_match():
    with pytest.raises(ValueError, match="visual tokens for slices"):
        positions_3d(np.array([1, 1, 0], bool), [(1, 3)])


def test_layout_has_a_visual_token_per_merged_patch_group(layouts):
    for layout in layouts:
        tokens = sum(size // MERGE**2 for size in layout.slice_sizes)
        assert layout.is_visual.sum() == tokens > 0
        assert not (layout.trained & layout.is_visual).any()
        assert layout.trained.any()


def test_only_answers_bear_loss(layouts, samples, rule):
    for layout, sample in zip(layouts, samples, strict=True):
        trained = rule.tokenizer.decode(layout.tokens[layout.trained], skip_special=False)
        answers = [m["content"] + "<|im_end|>" for m in sample.messages if m["role"] == "assistant"]
        assert trained == "".join(answers)


def test_slices_stay_within_blocks_and_targets_within_samples(layouts, shape):
    chosen = layouts[:3]
    pack = packing.assemble(chosen, [layout.read_patches() for layout in chosen], shape)
    for number in range(1, pack.slices.max() + 1):
        rows = np.flatnonzero(pack.slices == number)
        assert rows[0] // shape.slice_block == rows[-1] // shape.slice_block
    for number, layout in enumerate(chosen, 1):
        indices = np.flatnonzero(pack.segments == number)
        np.testing.assert_array_equal(pack.tokens[indices], layout.tokens)
        np.testing.assert_array_equal(pack.targets[indices[:-1]], layout.tokens[1:])
        assert pack.weights[indices[-1]] == 0
        assert pack.weights[indices].sum() == layout.trained[1:].sum()
        np.testing.assert_array_equal(pack.visual_index[indices] >= 0, layout.is_visual)


def test_pack_has_nine_arrays_of_nbytes(layouts, shape):
    pack = packing.assemble([layouts[0]], [layouts[0].read_patches()], shape)
    arrays = jax.tree.leaves(pack)
    assert len(arrays) == 9 and sum(array.nbytes for array in arrays) == shape.nbytes


@pytest.fixture(scope="module")
def short_plan(samples, rule, shape):
    member = plan.Member(plan.measure(samples, rule, shape), sample_ratio=1.0)
    return plan.make_plan([member], shape, count=12, batch=2, seed=5)


def read(short_plan, rule, shape, start=0, **changes) -> list[loader.LoadedBatch]:
    options = dataclasses.replace(OPTIONS, **changes)
    return list(loader.batches(short_plan, rule, shape, 2, start, options))


def equal(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a.batch, b.batch)))


def test_batches_do_not_depend_on_threads_or_workers(short_plan, rule, shape):
    expected = read(short_plan, rule, shape)
    assert len(expected) == 6
    for changes in (
        {"threads": 1, "prefetch": 1},
        {"threads": 4, "cache_bytes": 0},
        {"workers": 2},
    ):
        result = read(short_plan, rule, shape, **changes)
        assert len(result) == 6, changes
        assert all(equal(a, b) for a, b in zip(expected, result, strict=True)), changes
    # The last result is that of workers, which must not pickle arrays through a pipe.
    for loaded in result:
        assert all(isinstance(leaf, SharedMemoryArray) for leaf in jax.tree.leaves(loaded.batch))


def test_loader_resumes_at_any_batch(short_plan, rule, shape):
    expected = read(short_plan, rule, shape)
    for start in (1, 4, 6):
        result = read(short_plan, rule, shape, start)
        assert len(result) == 6 - start
        assert all(equal(a, b) for a, b in zip(expected[start:], result, strict=True))


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_together_read_the_batches_of_one_host_and_may_change_in_number(
    samples, rule, shape, hosts
):
    """A run on two hosts stops after one batch and resumes on another number of hosts."""
    member = plan.Member(plan.measure(samples, rule, shape), sample_ratio=1.0)
    planned = plan.make_plan([member], shape, count=12, batch=4, seed=5)

    def joined(count: int, start: int, workers: int) -> list:
        shares = [
            loader.batches(
                planned,
                rule,
                shape,
                4,
                start,
                dataclasses.replace(OPTIONS, workers=workers, process_index=i, process_count=count),
            )
            for i in range(count)
        ]
        # Pack k of a batch is read by host k modulo the number of hosts.
        return [
            jax.tree.map(
                lambda *rows: np.stack(rows, 1).reshape(-1, *rows[0].shape[1:]),
                *[loaded.batch for loaded in host_batches],
            )
            for host_batches in zip(*shares, strict=True)
        ]

    alone = joined(1, 0, workers=0)
    assert len(alone) == 3
    resumed = joined(2, 0, workers=0)[:1] + joined(hosts, 1, workers=2 if hosts == 2 else 0)
    for batch, other in zip(alone, resumed, strict=True):
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, batch, other)))


def test_bad_video_is_skipped_with_message_and_cause(data_folder, rule, shape, tmp_path):
    """The samples of a truncated and of a missing clip are skipped; all others are read."""
    shutil.copytree(data_folder, tmp_path / "data")
    clips = tmp_path / "data" / "clips" / "train"
    cut = clips / "000003.mp4"
    cut.write_bytes(cut.read_bytes()[:300])
    (clips / "000005.mp4").unlink()
    [member] = sources.read_mixture(tmp_path / "data" / "data.json", ("synthetic_train",))
    damaged = sources.read_samples(member)
    measured = plan.measure(damaged, rule, shape)
    assert measured.dropped == []
    packs = plan.make_plan([plan.Member(measured, 1.0)], shape, 8, 2, seed=0)
    loaded = read(packs, rule, shape)
    sentences = sorted({sentence for batch in loaded for sentence in batch.skipped})
    assert len(sentences) == 2
    assert "train-000003" in sentences[0] and "000003.mp4: not a readable video" in sentences[0]
    assert "train-000005" in sentences[1] and "no such file" in sentences[1]
    # The cause survives the pipe of a worker.
    sentences = pickle.loads(pickle.dumps(sentences))
    assert [sentence.cause for sentence in sentences] == ["unreadable", "missing"]
    assert all(loaded_batch.batch.weights.sum() > 0 for loaded_batch in loaded)


def test_video_that_changes_after_planning_is_skipped(data_folder, rule, shape, tmp_path):
    """A video without annotated size is probed for the plan; later changes skip its sample."""
    shutil.copytree(data_folder, tmp_path / "data")
    [member] = sources.read_mixture(tmp_path / "data" / "data.json", ("synthetic_train",))
    bare = [
        dataclasses.replace(s, videos=tuple(sources.VideoRef(v.path, None) for v in s.videos))
        for s in sources.read_samples(member)
    ]
    measured = plan.measure(bare, rule, shape)
    assert measured.dropped == [] and all(s.videos[0].info for s in measured.samples)
    clips = tmp_path / "data" / "clips" / "train"
    (clips / "000000.mp4").unlink()
    shutil.copy(clips / "000002.mp4", clips / "000001.mp4")
    packs = plan.make_plan([plan.Member(measured, 1.0)], shape, 8, 2, seed=0)
    skipped = {
        sentence.split(":")[0] for batch in read(packs, rule, shape) for sentence in batch.skipped
    }
    assert skipped == {"sample train-000000", "sample train-000001"}


def test_samples_that_do_not_fit_are_dropped_with_a_reason(samples, rule):
    small = packing.PackShape(tokens=64, patches=48, slice_block=48)
    measured = plan.measure(samples, rule, small)
    assert len(measured.samples) + len(measured.dropped) == len(samples)
    assert any("tokens in a pack of 64" in sentence for sentence in measured.dropped)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not valid JSON"),
        ('{"messages": ["hi"]}', "list of messages"),
        ('{"messages": [{"role": "user", "content": ""}], "truths": 5}', "truths must be"),
        ('{"messages": [{"role": "user", "content": "", "thinks": "x"}]}', "with the keys"),
        ('{"messages": [{"role": "user", "content": "", "thinking": "x"}]}', "an assistant thinks"),
        ('{"messages": []}', "is empty"),
        ('{"id": 1}', "list of messages"),
        ('{"messages": [], "surprise": 1}', "unknown keys"),
        ('{"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}', "needs"),
    ],
)
def test_bad_annotation_error_names_file_and_line(tmp_path, line, complaint):
    good = '{"messages": [{"role": "user", "content": ""}]}'
    (tmp_path / "x.jsonl").write_text(good + "\n" + line + "\n")
    data_set = sources.DataSet("x", (tmp_path / "x.jsonl",), tmp_path, 1.0)
    with pytest.raises(sources.AnnotationError, match=complaint) as error:
        sources.read_samples(data_set)
    assert "x.jsonl:2" in str(error.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "object of data sets"),
        ('{"x": 5}', "data set x is 5"),
        ('{"x": {"annotation": "a.jsonl", "sample_ratio": NaN}}', "sample_ratio"),
        ('{"x": {"annotation": "a.jsonl"}}', "no annotation at"),
        ('{"y": {}}', "no data set x; there are y"),
    ],
)
def test_bad_mixture_is_rejected(tmp_path, text, complaint):
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(sources.AnnotationError, match=complaint):
        sources.read_mixture(tmp_path / "data.json", ("x",))


@pytest.mark.parametrize("url", ["../secret.mp4", "/etc/passwd", "http://example.com/a.mp4"])
def test_media_outside_the_root_are_rejected(tmp_path, url):
    item = {"type": "video_url", "video_url": {"url": url}}
    (tmp_path / "x.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": [item]}]})
    )
    with pytest.raises(sources.AnnotationError, match="media_root"):
        sources.read_samples(sources.DataSet("x", (tmp_path / "x.jsonl",), tmp_path, 1.0))


def test_synthetic_splits_share_no_clip_and_seed_determines_files(data_folder, tmp_path):
    again = tmp_path / "again"
    write.synthesize(again, presets.PRESETS["test"], seed=3, workers=2)
    contents = {}
    for path in sorted(data_folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            assert data == (again / path.relative_to(data_folder)).read_bytes()
            if path.suffix == ".mp4":
                assert contents.setdefault(data, path) == path
