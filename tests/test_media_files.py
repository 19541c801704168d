"""Names of media and the file system: hidden files, names no file can have, files out of reach."""

import dataclasses
import os
import pathlib

import pytest

from data_pipelines import annotation_error, loader, media, media_files, plan, sources
from data_pipelines.frame_cache import FrameCache
from data_pipelines.media import VideoRef
from data_pipelines.media_error import MediaError
from data_pipelines.sources import statistics
from data_pipelines.video import decode
from tests.annotations import data_set, frames_of, parse, video_messages

INFO = {"image_wh": [64, 32], "origin_video_length": 10, "origin_fps": 1.0}


@pytest.mark.parametrize(
    ("name", "suffix", "file"),
    [
        ("v", ".mp4", "v.mp4"),
        ("v2.mp4", ".mp4", "v2.mp4"),
        ("V2.MP4", ".mp4", "V2.MP4"),
        ("a/v.mkv", ".mp4", "a/v.mkv"),
        ("j7r_210.0_360.0", ".mp4", "j7r_210.0_360.0.mp4"),
        ("v.mp4", "", "v.mp4"),
        ("v", "", "v"),
        ("v_frames", "_frames", "v_frames"),
    ],
)
def test_suffix_is_appended_to_names_without_one(name, suffix, file):
    assert media_files.with_suffix(name, suffix) == file


@pytest.mark.parametrize("url", ["._a.mp4", ".cache/a.mp4", "b/._a.mp4", "./.a.mp4"])
def test_hidden_media_are_faults_of_their_line(tmp_path, url):
    [fault] = sources.read(data_set(tmp_path, {"messages": video_messages(url=url)})).faults
    assert fault.cause == annotation_error.ADDRESS and "is hidden" in fault.sentence


def test_media_root_in_a_hidden_folder_is_read(tmp_path):
    root = tmp_path / ".cache"
    root.mkdir()
    [video] = parse(video_messages(url="./a.mp4"), root).videos
    assert video.path == str(root / "a.mp4")


def test_hidden_files_are_no_frames(tmp_path, rule):
    folder = frames_of(tmp_path / "clip")
    for name in ("._00000001.jpg", ".00000008.jpg"):
        (folder / name).write_bytes(b"no image")
    [video] = parse(video_messages(url="clip"), tmp_path).videos
    assert rule.video_clip(video).info.num_frames == 7


def test_hidden_files_are_no_frames_of_a_remote_folder(bucket):
    for name in ("00000001.jpg", "00000002.jpg", "._00000001.jpg"):
        bucket.pipe(f"/bucket/clip/{name}", b"x")
    from data_pipelines.video import folder

    assert len(folder.frames("gs://bucket/clip")) == 2


@pytest.mark.parametrize(
    ("root", "url", "path"),
    [
        ("{}", "{}/v/a.mp4", "{}/v/a.mp4"),
        ("{}/v", "{}/v/a.mp4", "{}/v/a.mp4"),
        ("{}/link", "{}/v/a.mp4", "{}/link/a.mp4"),
        ("{}/v", "{}/link/a.mp4", "{}/link/a.mp4"),
        ("{}/.to_v", "{}/v/a.mp4", "{}/.to_v/a.mp4"),
        ("gs://bucket/v", "gs://bucket/v/a.mp4", "gs://bucket/v/a.mp4"),
    ],
)
def test_absolute_url_inside_the_media_root_is_read(tmp_path, root, url, path):
    from etils import epath

    (tmp_path / "v").mkdir()
    for link in ("link", ".to_v"):
        (tmp_path / link).symlink_to(tmp_path / "v")
    folder = (epath.Path if "://" in root else pathlib.Path)(root.format(tmp_path))
    record = {"messages": video_messages(url=url.format(tmp_path))}
    [video] = sources.parse_sample(record, "here", folder).videos
    assert video.path == path.format(tmp_path)


@pytest.mark.parametrize(
    ("root", "url"),
    [
        ("{}/v", "{}/w/a.mp4"),
        ("{}/v", "{}/v/../w/a.mp4"),
        ("{}/v", "{}/v2/a.mp4"),
        ("{}/v", "/etc/passwd"),
        ("gs://bucket/v", "gs://bucket/v2/a.mp4"),
        ("gs://bucket/v", "gs://bucket/v/../w/a.mp4"),
        ("gs://bucket/v", "/etc/passwd"),
    ],
)
def test_absolute_url_outside_the_media_root_is_refused(tmp_path, root, url):
    from etils import epath

    folder = (epath.Path if "://" in root else pathlib.Path)(root.format(tmp_path))
    record = {"messages": video_messages(url=url.format(tmp_path))}
    with pytest.raises(sources.AnnotationError) as error:
        sources.parse_sample(record, "here", folder)
    assert error.value.cause == annotation_error.ADDRESS


def test_relative_url_may_repeat_the_name_of_the_media_root(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    [video] = parse(video_messages(url="videos/a.mp4"), "videos").videos
    assert video.path == "videos/videos/a.mp4"


def test_file_named_like_an_address_is_a_file(monkeypatch, tmp_path, data_folder):
    clip = next((data_folder / "clips" / "train").iterdir())
    (tmp_path / "12:30.mp4").write_bytes(clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert decode.probe("12:30.mp4") == decode.probe(clip)


def out_of_reach(folder: pathlib.Path, kind: str, monkeypatch) -> str:
    """The url of a video that cannot be opened."""
    if kind == "loop":
        (folder / "loop.mp4").symlink_to("loop.mp4")
        return "loop.mp4"
    if kind == "long":
        return "a" * 300 + ".mp4"
    if kind == "deep":
        return "a/" * 3000 + "a.mp4"
    real = os.stat

    def refused(path, *args, **keys) -> os.stat_result:
        if str(path).endswith("locked.mp4"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **keys)

    monkeypatch.setattr(os, "stat", refused)
    return "locked.mp4"


@pytest.mark.parametrize("kind", ["loop", "long", "deep", "locked"])
@pytest.mark.parametrize("described", [{}, INFO])
def test_video_out_of_reach_costs_its_line_only(
    tmp_path, rule, shape, data_folder, monkeypatch, kind, described
):
    """In check, when sizes are measured, and in decoding."""
    clip = next((data_folder / "clips" / "train").iterdir())
    (tmp_path / "good.mp4").write_bytes(clip.read_bytes())
    url = out_of_reach(tmp_path, kind, monkeypatch)
    lines = [
        {"id": "bad", "messages": video_messages(url=url, **described)},
        {"id": "good", "messages": video_messages(url="good.mp4")},
    ]
    member = data_set(tmp_path, *lines)
    found = statistics.collect(member, rule)
    assert found.samples == 1 and len(found.faults) == 1
    assert found.faults[0].where.endswith(":1")
    measured = plan.measure(sources.read(member).samples, rule, shape)
    loaded = loader.PackLoader(rule, shape, FrameCache(0)).load(measured.samples)
    assert loaded.samples == ("good",)
    assert len(loaded.skipped) + len(measured.dropped) == (0 if kind == "loop" else 1)


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        FileNotFoundError(2, "No such file or directory"),
        ValueError("embedded null byte"),
        RuntimeError("Symlink loop"),
        RecursionError("too deep"),
        OverflowError("too large"),
        MemoryError("too much"),
    ],
)
def test_any_error_of_reading_a_video_is_a_media_error(monkeypatch, rule, samples, error):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(decode, "probe", fail)
    monkeypatch.setattr(decode, "read_frames", fail)
    [ref] = samples[0].videos
    reason = getattr(error, "strerror", None) or type(error).__name__
    with pytest.raises(MediaError, match=reason) as found:
        VideoRef(ref.path, None).resolved()
    assert found.value.cause == "unreadable"
    layout = rule.lay_out(samples[0])
    with pytest.raises(MediaError, match=reason):
        layout.read_patches()


def test_full_disk_is_no_fault_of_a_video(monkeypatch, samples):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decode, "probe", fail)
    [ref] = samples[0].videos
    with pytest.raises(OSError, match="No space"):
        VideoRef(ref.path, None).resolved()


def test_missing_and_unreachable_files_have_different_causes(tmp_path):
    assert not media.exists(str(tmp_path / "none.mp4"))
    assert not media.exists(str(tmp_path / "x.jsonl" / "none.mp4"))
    (tmp_path / "empty.mp4").touch()
    for name in ("empty.mp4", "a" * 300):
        with pytest.raises(MediaError):
            media.exists(str(tmp_path / name))


def test_missing_loader_errors_do_not_name_other_samples(rule, shape, samples):
    """A sample whose file vanishes after planning is skipped by itself."""
    gone = dataclasses.replace(samples[0].videos[0], path="/nowhere/a\x1b.mp4")
    changed = [dataclasses.replace(samples[0], videos=(gone,)), samples[1]]
    loaded = loader.PackLoader(rule, shape, FrameCache(0)).load(changed)
    [skipped] = loaded.skipped
    assert loaded.samples == (samples[1].id,) and skipped.isprintable()
