"""Prepared folders give the same batches as the original files, and are written atomically."""

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

from data_pipelines import loader, local_copy, packing, plan, sources
from data_pipelines.prepared import proxy, read, shards, write
from data_pipelines.video import decode
from tests.annotations import frames_of

ROOT = pathlib.Path(__file__).parents[1]
NAMES = ("synthetic_train", "pictures")
# Small enough to give several shards.
SHARDS = {"shard_bytes": 60_000, "shard_samples": 8}


@pytest.fixture(scope="module")
def mixture(data_folder, tmp_path_factory) -> pathlib.Path:
    """Synthetic data, and a sample with an image and a clip whose annotation has no size."""
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


def mixture_members(path: pathlib.Path, rule, shape) -> list[plan.Member]:
    members = []
    for data_set in sources.read_mixture(path, NAMES):
        if data_set.prepared:
            samples = read.PreparedSamples(data_set.prepared)
            measured = read.measure(samples, rule, shape)
        else:
            measured = plan.measure(sources.read_samples(data_set), rule, shape)
        members.append(plan.Member(measured, data_set.sample_ratio))
    return members


def batches(path: pathlib.Path, rule, shape, **changes) -> list[loader.LoadedBatch]:
    planned = plan.make_plan(mixture_members(path, rule, shape), shape, count=12, batch=2, seed=1)
    options = loader.LoaderOptions(workers=0, threads=2, prefetch=2, cache_bytes=0)
    options = dataclasses.replace(options, **changes)
    return list(loader.batches(planned, rule, shape, 2, 0, options))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_equal_those_of_the_original_files(mixture, prepared, rule, shape, workers):
    expected = batches(mixture, rule, shape)
    loaded = batches(prepared / "data.json", rule, shape, workers=workers)
    assert len(expected) == len(loaded) == 6 and not any(one.skipped for one in loaded)
    for original, copy in zip(expected, loaded, strict=True):
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, original.batch, copy.batch)))


def test_stored_sizes_are_recomputed_for_another_rule(prepared, rule, shape, monkeypatch):
    denser = dataclasses.replace(rule, frame_rule=dataclasses.replace(rule.frame_rule, fps=2.0))
    [recomputed, _] = mixture_members(prepared / "data.json", denser, shape)
    monkeypatch.setattr(plan, "measure", None)
    [stored, _] = mixture_members(prepared / "data.json", rule, shape)
    assert recomputed.measured.sizes.patches().mean() > stored.measured.sizes.patches().mean()
    sizes = [packing.size_of(rule.lay_out(sample)) for sample in stored.measured.samples]
    assert list(stored.measured.sizes) == sizes


def test_manifest_has_checksums_and_media_shards_have_frame_times(prepared, mixture):
    manifest = json.loads((prepared / "manifest.json").read_text())
    listed = {f"media/{shard['file']}": shard for shard in manifest["media"]["shards"]}
    for name, facts in manifest["data_sets"].items():
        listed |= {f"{name}/{shard['file']}": shard for shard in facts["shards"]}
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


def test_statistics_match_the_layouts(prepared, rule):
    facts = json.loads((prepared / "manifest.json").read_text())["data_sets"]["synthetic_train"]
    samples = read.PreparedSamples(prepared / "synthetic_train")
    layouts = [rule.lay_out(sample) for sample in samples]
    statistics = facts["statistics"]
    assert statistics["samples"] == len(layouts) == sum(statistics["lengths_below"].values())
    assert statistics["tokens"] == sum(len(layout.tokens) for layout in layouts)
    assert statistics["trained_tokens"] == sum(layout.trained.sum() for layout in layouts)
    assert statistics["visual_tokens"] == sum(layout.is_visual.sum() for layout in layouts)


def test_preparation_skips_and_names_bad_files(mixture, rule, shape, tmp_path):
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
    assert "000005.mp4: no such file" in left_out and "but the annotation says" in left_out
    [first, _] = mixture_members(out / "data.json", rule, shape)
    assert len(first.measured.dropped) == 3
    assert not any(one.skipped for one in batches(out / "data.json", rule, shape))


# The rule equals the fixture `rule`. Imports are below the guard because workers import this file.
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
    options = write.Options(workers=2, shard_bytes=60_000, shard_samples=8)
    names = ("synthetic_train", "pictures")
    write.prepare(pathlib.Path(sys.argv[1]), names, pathlib.Path(sys.argv[2]), rule, options)
"""


def test_killed_preparation_resumes(mixture, prepared, tmp_path):
    """After a SIGKILL, the same command keeps the finished shards and writes the same bytes."""
    script, out = tmp_path / "run.py", tmp_path / "out"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(mixture), str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    # A separate process group, so the kill reaches its workers.
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


def test_different_preparation_in_the_same_folder_is_rejected(mixture, prepared, rule):
    with pytest.raises(FileExistsError, match="a preparation with different proxy_fps"):
        options = write.Options(workers=0, proxy_fps=1.0, **SHARDS)
        write.prepare(mixture, NAMES, prepared, rule, options)


def test_missing_shard_is_named(prepared, rule, shape, tmp_path):
    """A missing media shard skips its samples; a missing sample shard is an error."""
    out = tmp_path / "out"
    shutil.copytree(prepared, out)
    (out / "media" / "00000.array_record").unlink()
    skipped = [text for one in batches(out / "data.json", rule, shape) for text in one.skipped]
    assert skipped and all("media/00000.array_record: no such file" in text for text in skipped)
    (out / "synthetic_train" / "00001.array_record").unlink()
    with pytest.raises(sources.AnnotationError, match=r"00001.array_record is missing"):
        read.PreparedSamples(out / "synthetic_train")


def test_proxy_has_fewer_frames_with_the_same_content(mixture, rule, shape, tmp_path):
    out = tmp_path / "out"
    facts = write.prepare(mixture, NAMES, out, rule, write.Options(0, proxy_fps=2.0))
    assert facts["proxy_fps"] == 2.0
    clip = mixture.parent / "clips" / "train" / "000000.mp4"
    info = decode.probe(clip)
    indices = proxy.indices(info, 2.0)
    sample = read.PreparedSamples(out / "synthetic_train")[0]
    [video] = sample.videos
    assert video.info.num_frames == len(indices) < info.num_frames
    with local_copy.local(video.path) as path:
        decoded = decode.read_frames(path, video.info, np.arange(len(indices)), np.asarray)
    original = decode.read_frames(clip, info, indices, np.asarray)
    assert np.abs(np.float32(decoded) - np.float32(original)).mean() < 6
    columns = shards.read_columns(out / "media" / "00000")
    np.testing.assert_allclose(
        columns["times"][: columns["bounds"][1]], decode.frame_times(clip)[indices]
    )
    assert not any(one.skipped for one in batches(out / "data.json", rule, shape))


def annotation_lines(folder: pathlib.Path) -> list[dict]:
    """Every way to annotate a folder of frames, and a clip; each sample also has an image."""
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
        answer = {"role": "assistant", "content": "That.", "thinking": "Hm."}
        lines.append({"id": number, "messages": [{"role": "user", "content": content}, answer]})
    return lines


def write_mixture(folder: pathlib.Path, bucket, remote: bool) -> pathlib.Path:
    """Writes a mixture of these lines with overrides, with local media or media in a bucket."""
    media = folder / "media"
    media.mkdir()
    frames_of(media / "clip")
    Image.new("RGB", (90, 70), "red").save(media / "a.png")
    (media / "a.mp4").write_bytes(bucket.cat("/bucket/v/a.mp4"))
    for file in media.rglob("*.*"):
        bucket.pipe(f"/bucket/v/{file.relative_to(media)}", file.read_bytes())
    text = "".join(json.dumps(line) + "\n" for line in annotation_lines(media))
    (folder / "x.jsonl").write_text(text)
    entry = {"annotation": "x.jsonl", "media_root": "gs://bucket/v" if remote else "media"}
    entry |= {"video_max_frames": 4, "rand_video_max_frames": 6, "add_vision_id": True}
    (folder / "data.json").write_text(json.dumps({"x": entry}))
    return folder / "data.json"


@pytest.mark.parametrize("remote", [False, True])
def test_prepared_samples_do_not_need_the_originals(tmp_path, bucket, rule, shape, remote):
    """Frame folders, bucket files and overrides give the same layouts after they are deleted."""
    path = write_mixture(tmp_path, bucket, remote)
    [data_set] = sources.read_mixture(path, ("x",))
    expected = sources.read_samples(data_set)
    layouts = [rule.lay_out(sample) for sample in expected]
    pixels = [layout.read_patches()[0] for layout in layouts]
    out = tmp_path / "out"
    facts = write.prepare(path, ("x",), out, rule, write.Options(0))
    assert facts["data_sets"]["x"]["left_out"] == [] and facts["media"]["files"] == 3
    bucket.rm("/bucket", recursive=True)
    shutil.rmtree(tmp_path / "media")

    [prepared_set] = sources.read_mixture(out / "data.json", ("x",))
    stored = read.PreparedSamples(prepared_set.prepared)
    assert len(stored) == len(expected)
    for sample, eager, original, layout, rows in zip(
        stored, sources.read_samples(prepared_set), expected, layouts, pixels, strict=True
    ):
        assert sample.overrides == eager.overrides == original.overrides
        copy = rule.lay_out(sample)
        np.testing.assert_array_equal(copy.tokens, layout.tokens)
        np.testing.assert_array_equal(copy.trained, layout.trained)
        np.testing.assert_array_equal(np.concatenate(copy.read_patches()[0]), np.concatenate(rows))
    sizes = [packing.size_of(layout) for layout in layouts]
    measured = read.measure(stored, rule, shape)
    assert list(measured.sizes) == sizes


def test_mixture_overrides_take_precedence_over_stored_ones(tmp_path, bucket, rule, shape):
    path = write_mixture(tmp_path, bucket, remote=False)
    write.prepare(path, ("x",), tmp_path / "out", rule, write.Options(0))
    entry = {"annotation": "out/x", "video_max_frames": 2}
    (tmp_path / "mine.json").write_text(json.dumps({"x": entry}))
    [data_set] = sources.read_mixture(tmp_path / "mine.json", ("x",))
    stored = read.PreparedSamples(data_set.prepared, data_set.overrides)
    assert stored[0].overrides == sources.Overrides(
        video_max_frames=2, rand_video_max_frames=6, add_vision_id=True
    )
    fewer = read.measure(stored, rule, shape)
    more = read.measure(read.PreparedSamples(data_set.prepared), rule, shape)
    assert fewer.sizes.tokens.sum() < more.sizes.tokens.sum()
    entry["media_root"] = "media"
    (tmp_path / "mine.json").write_text(json.dumps({"x": entry}))
    with pytest.raises(sources.AnnotationError, match="remove media_root"):
        sources.read_mixture(tmp_path / "mine.json", ("x",))


def test_bad_annotations_are_named_in_the_manifest_or_rejected(mixture, rule, tmp_path):
    shutil.copytree(mixture.parent, tmp_path / "data")
    with (tmp_path / "data" / "pictures.jsonl").open("a") as file:
        file.write('\n{"id": 1}\n')
    path, out = tmp_path / "data" / "data.json", tmp_path / "out"
    with pytest.raises(
        sources.AnnotationError, match=r"1 unusable annotations, but data\.max_bad_samples allows 0"
    ):
        write.prepare(path, ("pictures",), out, rule, write.Options(0))
    assert not out.exists()
    write.prepare(path, ("pictures",), out, rule, write.Options(0, max_bad_samples=1))
    [fault] = read.PreparedSamples(out / "pictures").faults
    assert "pictures.jsonl:2" in fault
