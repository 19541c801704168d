"""A prepared folder: the same batches as from the loose files, written whole or not at all."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from data_pipelines import loader, nearby, packing, plan, sources
from data_pipelines.prepared import proxy, read, shards, write
from data_pipelines.video import decode
from tests.annotations import frames_of

ROOT = pathlib.Path(__file__).parents[1]
NAMES = ("synthetic_train", "pictures")
# Small enough that there are several.
SHARDS = {"shard_bytes": 60_000, "shard_samples": 8}


@pytest.fixture(scope="module")
def mixture(data_folder, tmp_path_factory) -> pathlib.Path:
    """The synthetic clips, one of them asked about without its sizes, and an image of our own."""
    folder = tmp_path_factory.mktemp("mixed") / "data"
    shutil.copytree(data_folder, folder)
    Image.new("RGB", (90, 70), "red").save(folder / "a.png")
    clip = "clips/train/000000.mp4"
    items = [
        {"type": "video_url", "video_url": {"url": clip, "span": [0.5, 3.0], "fps": 2}},
        {"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "text", "text": "<VIDEO_CONTEXT><IMG_CONTEXT>Which?"},
    ]
    messages = [{"role": "user", "content": items}, {"role": "assistant", "content": "é"}]
    (folder / "pictures.jsonl").write_text(json.dumps({"id": "p", "messages": messages}))
    entries = json.loads((folder / "data.json").read_text())
    entries["pictures"] = {"annotation": "pictures.jsonl", "sample_ratio": 2.5}
    (folder / "data.json").write_text(json.dumps(entries))
    return folder / "data.json"


@pytest.fixture(scope="module")
def prepared(mixture, rule, tmp_path_factory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("prepared") / "out"
    write.prepare(mixture, NAMES, out, rule, write.Options(workers=0, **SHARDS))
    return out


def members(path: pathlib.Path, rule, shape) -> list[plan.Member]:
    found = []
    for data_set in sources.read_mixture(path, NAMES):
        if data_set.prepared:
            samples = read.PreparedSamples(data_set.prepared)
            measured = read.measure(samples, rule, shape)
        else:
            measured = plan.measure(sources.read_samples(data_set), rule, shape)
        found.append(plan.Member(measured, data_set.sample_ratio))
    return found


def batches(path: pathlib.Path, rule, shape, **changes) -> list[loader.Loaded]:
    planned = plan.make_plan(members(path, rule, shape), shape, count=12, batch=2, seed=1)
    options = loader.LoaderOptions(workers=0, threads=2, prefetch=2, cache_bytes=0)
    options = dataclasses.replace(options, **changes)
    return list(loader.batches(planned, rule, shape, 2, 0, options))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_original_files(mixture, prepared, rule, shape, workers):
    expected = batches(mixture, rule, shape)
    found = batches(prepared / "data.json", rule, shape, workers=workers)
    assert len(expected) == len(found) == 6 and not any(one.skipped for one in found)
    for one, other in zip(expected, found, strict=True):
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, one.batch, other.batch)))


def test_sizes_are_stored_and_made_anew_for_another_rule(prepared, rule, shape, monkeypatch):
    denser = dataclasses.replace(rule, frame_rule=dataclasses.replace(rule.frame_rule, fps=2.0))
    [again, _] = members(prepared / "data.json", denser, shape)
    monkeypatch.setattr(plan, "measure", None)
    [stored, _] = members(prepared / "data.json", rule, shape)
    assert again.measured.sizes.patches().mean() > stored.measured.sizes.patches().mean()
    sizes = [packing.size_of(rule(sample)) for sample in stored.measured.samples]
    assert list(stored.measured.sizes) == sizes


def test_every_shard_has_its_checksum_and_every_video_the_times_of_its_frames(prepared, mixture):
    manifest = json.loads((prepared / "manifest.json").read_text())
    listed = {f"media/{one['file']}": one for one in manifest["media"]["shards"]}
    for name, facts in manifest["data_sets"].items():
        listed |= {f"{name}/{one['file']}": one for one in facts["shards"]}
    files = {str(file.relative_to(prepared)) for file in prepared.rglob("*.array_record")}
    assert files == set(listed) and len(files) > 6
    for file, facts in listed.items():
        data = (prepared / file).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (facts["bytes"], facts["sha256"])
    stem = prepared / "media" / "00000"
    entries = shards.read_facts(stem)["media"]
    columns = shards.read_columns(stem)
    original = decode.frame_times(entries[1]["path"])
    np.testing.assert_array_equal(
        columns["times"][columns["bounds"][1] : columns["bounds"][2]], original
    )
    assert shards.record(f"{stem}.array_record", 1) == pathlib.Path(entries[1]["path"]).read_bytes()


def test_statistics_count_what_was_written(prepared, rule):
    facts = json.loads((prepared / "manifest.json").read_text())["data_sets"]["synthetic_train"]
    samples = read.PreparedSamples(prepared / "synthetic_train")
    layouts = [rule(sample) for sample in samples]
    found = facts["statistics"]
    assert found["samples"] == len(layouts) == sum(found["lengths_below"].values())
    assert found["tokens"] == sum(len(one.tokens) for one in layouts)
    assert found["trained_tokens"] == sum(one.trained.sum() for one in layouts)
    assert found["visual_tokens"] == sum(one.is_visual.sum() for one in layouts)


def test_bad_files_are_counted_named_and_skipped(mixture, rule, shape, tmp_path):
    shutil.copytree(mixture.parent, tmp_path / "data")
    clips = tmp_path / "data" / "clips" / "train"
    (clips / "000003.mp4").write_bytes((clips / "000003.mp4").read_bytes()[:300])
    (clips / "000005.mp4").unlink()
    shutil.copy(clips / "000002.mp4", clips / "000001.mp4")
    out = tmp_path / "out"
    facts = write.prepare(tmp_path / "data" / "data.json", NAMES, out, rule, write.Options(0))
    assert len(facts["media"]["unreadable"]) == 2
    left_out = "\n".join(facts["data_sets"]["synthetic_train"]["left_out"])
    assert "train-000003" in left_out and "000003.mp4: not a readable video" in left_out
    assert "000005.mp4: no such file" in left_out and "were announced" in left_out
    [first, _] = members(out / "data.json", rule, shape)
    assert len(first.measured.dropped) == 3
    assert not any(one.skipped for one in batches(out / "data.json", rule, shape))


# As the fixture `rule` has it. Imports are below the guard, since workers import this file too.
SCRIPT = """
import pathlib, sys

if __name__ == "__main__":
    from data_pipelines import layout
    from data_pipelines.prepared import write
    from data_pipelines.video import frames, resize
    from ivx.text import tokenizer

    rule = layout.LayoutRule(
        tokenizer.load("compact"),
        frames.FrameRule(fps=1.0, min_frames=2, max_frames=16),
        resize.PixelBudget(4 * 32 * 32, 16 * 64 * 64),
        resize.PixelBudget(4 * 32 * 32, 12 * 32 * 32),
    )
    how = write.Options(workers=2, shard_bytes=60_000, shard_samples=8)
    names = ("synthetic_train", "pictures")
    write.prepare(pathlib.Path(sys.argv[1]), names, pathlib.Path(sys.argv[2]), rule, how)
"""


def test_a_killed_preparation_goes_on(mixture, prepared, tmp_path):
    """SIGKILL after two shards; the same command again keeps them and ends with the same bytes."""
    script, out = tmp_path / "run.py", tmp_path / "out"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(mixture), str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    # A group of its own, so that its workers die with it.
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    deadline = time.monotonic() + 200
    while len(list(out.rglob("0*.json"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {file: file.stat().st_mtime_ns for file in out.rglob("0*.json")}
    assert not (out / "data.json").exists()

    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)
    assert all(file.stat().st_mtime_ns == when for file, when in kept.items())
    assert not list(out.rglob("*.partial"))
    for file in prepared.rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (out / file.relative_to(prepared)).read_bytes(), file


def test_another_preparation_in_the_same_folder_is_refused(mixture, prepared, rule):
    with pytest.raises(FileExistsError, match="another preparation, with other proxy_fps"):
        how = write.Options(workers=0, proxy_fps=1.0, **SHARDS)
        write.prepare(mixture, NAMES, prepared, rule, how)


def test_a_damaged_or_missing_shard_is_named(prepared, rule, shape, tmp_path):
    """Of media: the samples in it are skipped. Of samples: there is nothing to train on."""
    out = tmp_path / "out"
    shutil.copytree(prepared, out)
    (out / "media" / "00000.array_record").unlink()
    skipped = [text for one in batches(out / "data.json", rule, shape) for text in one.skipped]
    assert skipped and all("media/00000.array_record: no such file" in text for text in skipped)
    (out / "synthetic_train" / "00001.array_record").unlink()
    with pytest.raises(sources.AnnotationError, match=r"00001.array_record is missing"):
        read.PreparedSamples(out / "synthetic_train")


def test_a_proxy_has_fewer_frames_that_show_the_same(mixture, rule, shape, tmp_path):
    out = tmp_path / "out"
    facts = write.prepare(mixture, NAMES, out, rule, write.Options(0, proxy_fps=2.0))
    assert facts["proxy_fps"] == 2.0
    clip = mixture.parent / "clips" / "train" / "000000.mp4"
    info = decode.probe(clip)
    chosen = proxy.indices(info, 2.0)
    sample = read.PreparedSamples(out / "synthetic_train")[0]
    [video] = sample.videos
    assert video.info.num_frames == len(chosen) < info.num_frames
    with nearby.local(video.path) as path:
        seen = decode.read_frames(path, video.info, np.arange(len(chosen)), np.asarray)
    real = decode.read_frames(clip, info, chosen, np.asarray)
    assert np.abs(np.float32(seen) - np.float32(real)).mean() < 6
    columns = shards.read_columns(out / "media" / "00000")
    np.testing.assert_allclose(
        columns["times"][: columns["bounds"][1]], decode.frame_times(clip)[chosen]
    )
    assert not any(one.skipped for one in batches(out / "data.json", rule, shape))


def lines_of(folder: pathlib.Path) -> list[dict]:
    """A folder of frames described in every way, and a clip, each beside an image."""
    item = {"url": "clip", "image_wh": [64, 32]}
    videos = [
        {**item, "processed_video_length": 7, "processed_fps": 2.0},
        {**item, "processed_video_length": 5, "processed_fps": 0.5},
        {"url": "clip", "processed_video_length": 7, "processed_fps": 0.5}
        | {"frames_timestamp": [10, 11, 12, 13, 14, 15, 16]},
        {**item, "origin_video_length": 7, "origin_fps": 1.0},
        {"url": "clip", "origin_fps": 1.0},
        {"url": "clip"},
        {"url": "a.mp4"},
        {"url": "a.mp4", "span": [0.5, 2.0], "fps": 2},
    ]
    lines = []
    for number, video in enumerate(videos):
        content = [
            {"type": "video_url", "video_url": video},
            {"type": "image_url", "image_url": {"url": "a.png"}},
            {"type": "text", "text": "<VIDEO_CONTEXT><IMG_CONTEXT>What?"},
        ]
        said = {"role": "assistant", "content": "That.", "thinking": "Hm."}
        lines.append({"id": number, "messages": [{"role": "user", "content": content}, said]})
    return lines


def elsewhere(folder: pathlib.Path, bucket, remote: bool) -> pathlib.Path:
    """A mixture of the above with overrides, its media here or in a bucket."""
    media = folder / "media"
    media.mkdir()
    frames_of(media / "clip")
    Image.new("RGB", (90, 70), "red").save(media / "a.png")
    (media / "a.mp4").write_bytes(bucket.cat("/bucket/v/a.mp4"))
    for file in media.rglob("*.*"):
        bucket.pipe(f"/bucket/v/{file.relative_to(media)}", file.read_bytes())
    text = "".join(json.dumps(line) + "\n" for line in lines_of(media))
    (folder / "x.jsonl").write_text(text)
    entry = {"annotation": "x.jsonl", "media_root": "gs://bucket/v" if remote else "media"}
    entry |= {"video_max_frames": 4, "rand_video_max_frames": 6, "add_vision_id": True}
    (folder / "data.json").write_text(json.dumps({"x": entry}))
    return folder / "data.json"


@pytest.mark.parametrize("remote", [False, True])
def test_folders_of_frames_buckets_and_overrides_are_kept(tmp_path, bucket, rule, shape, remote):
    """Every sample is laid out and read as from where it was, with the bucket emptied."""
    path = elsewhere(tmp_path, bucket, remote)
    [asked] = sources.read_mixture(path, ("x",))
    expected = sources.read_samples(asked)
    layouts = [rule(sample) for sample in expected]
    pixels = [layout.read_patches()[0] for layout in layouts]
    out = tmp_path / "out"
    facts = write.prepare(path, ("x",), out, rule, write.Options(0))
    assert facts["data_sets"]["x"]["left_out"] == [] and facts["media"]["files"] == 3
    bucket.rm("/bucket", recursive=True)
    shutil.rmtree(tmp_path / "media")

    [found] = sources.read_mixture(out / "data.json", ("x",))
    stored = read.PreparedSamples(found.prepared)
    assert len(stored) == len(expected)
    for sample, eager, was, layout, rows in zip(
        stored, sources.read_samples(found), expected, layouts, pixels, strict=True
    ):
        assert sample.overrides == eager.overrides == was.overrides
        again = rule(sample)
        np.testing.assert_array_equal(again.tokens, layout.tokens)
        np.testing.assert_array_equal(again.trained, layout.trained)
        np.testing.assert_array_equal(np.concatenate(again.read_patches()[0]), np.concatenate(rows))
    sizes = [packing.size_of(layout) for layout in layouts]
    measured = read.measure(stored, rule, shape)
    assert list(measured.sizes) == sizes


def test_overrides_of_the_mixture_come_before_those_that_were_stored(tmp_path, bucket, rule, shape):
    path = elsewhere(tmp_path, bucket, remote=False)
    write.prepare(path, ("x",), tmp_path / "out", rule, write.Options(0))
    entry = {"annotation": "out/x", "video_max_frames": 2}
    (tmp_path / "mine.json").write_text(json.dumps({"x": entry}))
    [found] = sources.read_mixture(tmp_path / "mine.json", ("x",))
    stored = read.PreparedSamples(found.prepared, found.overrides)
    assert stored[0].overrides == sources.Overrides(
        video_max_frames=2, rand_video_max_frames=6, add_vision_id=True
    )
    fewer = read.measure(stored, rule, shape)
    more = read.measure(read.PreparedSamples(found.prepared), rule, shape)
    assert fewer.sizes.tokens.sum() < more.sizes.tokens.sum()
    entry["media_root"] = "media"
    (tmp_path / "mine.json").write_text(json.dumps({"x": entry}))
    with pytest.raises(sources.AnnotationError, match="take out media_root"):
        sources.read_mixture(tmp_path / "mine.json", ("x",))


def test_bad_annotations_are_named_in_the_manifest_or_refused(mixture, rule, tmp_path):
    shutil.copytree(mixture.parent, tmp_path / "data")
    with (tmp_path / "data" / "pictures.jsonl").open("a") as file:
        file.write('\n{"id": 1}\n')
    path, out = tmp_path / "data" / "data.json", tmp_path / "out"
    with pytest.raises(sources.AnnotationError, match="1 unusable annotations, allowed are 0"):
        write.prepare(path, ("pictures",), out, rule, write.Options(0))
    assert not out.exists()
    write.prepare(path, ("pictures",), out, rule, write.Options(0, max_bad_samples=1))
    [fault] = read.PreparedSamples(out / "pictures").faults
    assert "pictures.jsonl:2" in fault
