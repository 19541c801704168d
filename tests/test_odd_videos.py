"""Unusual and damaged videos give exact frames or an error with a cause, never a crash or hang."""

import collections
import dataclasses
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from data_pipelines import loader, media, plan, sources
from data_pipelines.media import VideoRef
from data_pipelines.media_error import MediaError
from data_pipelines.video import decode, packets
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import Limits, Meter
from ivx import config as configs
from ivx import from_config
from tests import damage, odd_videos

ROOT = pathlib.Path(__file__).parents[1]
CAUSES = {
    "byte limit",
    "damaged",
    "differs",
    "empty",
    "frame size",
    "missing",
    "no decoder",
    "no frames",
    "no video",
    "time limit",
    "too long",
    "unreadable",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns a function that writes each video once."""
    folder, paths = tmp_path_factory.mktemp("odd"), {}

    def make(name: str) -> pathlib.Path:
        if name not in paths:
            paths[name] = odd_videos.make(name, folder)
        return paths[name]

    return make


def frame_numbers(path: pathlib.Path, indices, info: VideoInfo | None = None) -> list[int]:
    info = info or decode.probe(path)
    return decode.read_frames(path, info, np.asarray(indices), odd_videos.read_number)


@pytest.mark.parametrize("name", odd_videos.KINDS)
def test_every_codec_decodes_exactly_the_requested_frames(made, name):
    """Requests all frames, each frame alone, and some with gaps."""
    kind, path = odd_videos.KINDS[name], made(name)
    info = decode.probe(path)
    assert info.num_frames == kind.frames
    assert sorted((info.width, info.height)) == sorted(kind.size)
    everything = list(range(kind.frames))
    assert frame_numbers(path, everything, info) == everything
    assert [frame_numbers(path, [index], info) for index in everything] == [[i] for i in everything]
    some = [index for index in everything if index % 7 in (2, 3)]
    assert not some or frame_numbers(path, some, info) == some


@pytest.mark.parametrize("name", odd_videos.KINDS)
def test_frames_are_converted_once_and_in_display_order(made, name, monkeypatch):
    """This also holds if a seek fails and the file is read again from the start."""
    kind, path = odd_videos.KINDS[name], made(name)
    requested, seen = [i for i in range(kind.frames) if i % 10 in (0, 1, 9)], []

    def record(frame: np.ndarray) -> None:
        seen.append(odd_videos.read_number(frame))

    original_seek = packets.PacketReader.seek
    monkeypatch.setattr(packets, "_MAX_SKIPPED", 0)
    for fails in (False, True):

        def seek(reader, number, fails=fails):
            if fails and not reader._from_start and number > 0:
                raise packets.SeekError
            original_seek(reader, number)

        monkeypatch.setattr(packets.PacketReader, "seek", seek)
        decode.read_frames(path, decode.probe(path), np.array(requested), record)
        assert seen == requested
        seen.clear()


def test_frame_times_match_the_file(made):
    steps = np.cumsum([0, *odd_videos.KINDS["variable_rate"].step * 8])[: odd_videos.FRAMES]
    np.testing.assert_allclose(
        decode.frame_times(made("variable_rate")), steps / 90000, rtol=0, atol=1e-6
    )
    for name in ("h264", "late_start", "h264_avi"):
        np.testing.assert_allclose(
            decode.frame_times(made(name)), np.arange(odd_videos.FRAMES) / 10, atol=1e-6
        )


@pytest.mark.parametrize("name", ["h264", "no_b_frames"])
def test_frames_hidden_by_an_edit_list_are_not_counted(made, tmp_path, name):
    """Hidden frames are still decoded, because displayed frames refer to them."""
    path = odd_videos.edit_list(made(name), tmp_path / "edited.mp4", hidden=5)
    assert decode.probe(path).num_frames == odd_videos.FRAMES - 5
    assert frame_numbers(path, [0, 3, 18]) == [5, 8, 23]
    assert decode.frame_times(path)[0] == 0


def test_jumping_times_do_not_reorder_frames(made, tmp_path):
    path = odd_videos.jump_ahead(made("no_b_frames"), tmp_path / "jumping.mp4")
    assert frame_numbers(path, [0, 11, 12, 23]) == [0, 11, 12, 23]
    path = odd_videos.concatenate(made("transport"), tmp_path / "joined.ts")
    assert decode.probe(path).num_frames == 2 * odd_videos.FRAMES
    assert frame_numbers(path, [0, 23, 24, 30, 47]) == [0, 23, 0, 6, 23]


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
def test_negative_times_hide_no_frames(made, tmp_path, suffix):
    """Matroska stores no negative times, so these frames have none."""
    plain = made("no_b_frames")
    path = odd_videos.negative_times(plain, tmp_path / f"negative.{suffix}", before=7)
    assert decode.probe(path).num_frames == odd_videos.FRAMES
    assert frame_numbers(path, [0, 6, 7, 8, 23]) == [0, 6, 7, 8, 23]
    np.testing.assert_allclose(decode.frame_times(path), np.arange(odd_videos.FRAMES) / 10)


def test_video_of_several_weeks_is_rejected(made, tmp_path):
    """FLV stores negative times as very large ones."""
    path = odd_videos.negative_times(made("no_b_frames"), tmp_path / "negative.flv", before=7)
    with pytest.raises(MediaError, match="hours long; at most 24 are allowed") as error:
        decode.probe(path)
    assert error.value.cause == "too long"


def test_frame_folder_is_read_like_a_video(tmp_path):
    """Errors name a frame that is missing, empty, damaged or of another size."""
    path = odd_videos.frame_folder(tmp_path / "frames")
    assert numbers_in_folder(path) == list(range(odd_videos.FRAMES))
    frame = path / "00000006.jpg"
    intact = frame.read_bytes()
    for damaged, cause in (
        (intact[: len(intact) // 2], "unreadable"),
        (b"", "empty"),
        (b"not an image", "unreadable"),
        (Image.new("RGB", (32, 48)), "differs"),
        (None, "missing"),
    ):
        if damaged is None:
            frame.unlink()
        elif isinstance(damaged, bytes):
            frame.write_bytes(damaged)
        else:
            damaged.save(frame)
        with pytest.raises(MediaError, match=r"00000006.jpg") as error:
            numbers_in_folder(path)
        assert error.value.cause == cause


def numbers_in_folder(path: pathlib.Path) -> list[int]:
    info = VideoRef(str(path), None).resolved()
    everything = np.arange(info.num_frames)
    return media.read_video(str(path), info, everything, odd_videos.read_number, Meter(Limits()))


def test_rotation_is_applied_counter_clockwise(made):
    path = made("rotated")
    info = decode.probe(path)
    [picture] = decode.read_frames(path, info, np.array([0]), lambda frame: frame)
    # The black corner was the upper left one before rotation.
    corners = [picture[y, x].mean() for y in (2, -3) for x in (2, -3)]
    assert np.argmin(corners) == 2
    assert picture.shape == (odd_videos.WIDTH, odd_videos.HEIGHT, 3)


def test_video_that_differs_from_its_annotation_is_rejected(made):
    path = made("h264")
    for info, message in (
        (VideoInfo(25, 10.0, 64, 48), "24 frames, but the annotation says 25"),
        (VideoInfo(24, 25.0, 64, 48), "10 frames per second, but the annotation says 25"),
        (VideoInfo(24, 10.0, 48, 64), "64x48 pixels, but the annotation says 48x64"),
    ):
        with pytest.raises(MediaError, match=message) as error:
            frame_numbers(path, [0], info)
        assert error.value.cause == "differs"


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        ({"frame_pixels": 64 * 48 - 1}, "frame size"),
        ({"frames": 23}, "too long"),
        ({"hours": 2.3 / 3600}, "too long"),
        ({"decode_gib": 1e-9}, "byte limit"),
        ({"decode_seconds": 1e-9}, "time limit"),
    ],
)
def test_each_limit_stops_decoding(made, limits, cause):
    path = made("h264")
    info = decode.probe(path)
    with pytest.raises(MediaError) as error:
        decode.read_frames(path, info, np.arange(24), np.asarray, Meter(Limits(**limits)))
    assert error.value.cause == cause and path.name in str(error.value)


def test_time_limit_is_checked_between_frames(made):
    """Time spent in `convert` counts too."""
    path, converted = made("h264"), []
    info = decode.probe(path)

    def slow(frame: np.ndarray) -> np.ndarray:
        end = time.thread_time() + 0.1
        while time.thread_time() < end:
            pass
        converted.append(1)
        return frame

    with pytest.raises(MediaError, match=r"0\.5 seconds") as error:
        decode.read_frames(path, info, np.arange(24), slow, Meter(Limits(decode_seconds=0.5)))
    assert error.value.cause == "time limit"
    assert len(converted) < 24


def test_meter_adds_up_all_clips_of_a_sample(made):
    path, meter = made("h264"), Meter(Limits(decode_gib=150 * 64 * 48 / 2**30))
    info = decode.probe(path)
    decode.read_frames(path, info, np.arange(24), np.asarray, meter)
    with pytest.raises(MediaError, match="GiB of decoded frames"):
        for _ in range(5):
            decode.read_frames(path, info, np.arange(24), np.asarray, meter)


def test_playlists_and_images_are_rejected_as_videos(made, tmp_path):
    """A playlist must not cause other files to be opened."""
    made("h264")
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {made('h264')}\n")
    (tmp_path / "list.mkv").write_text("#EXTM3U\n#EXTINF:2,\nhttp://127.0.0.1:9/a.ts\n")
    Image.new("RGB", (64, 48)).save(tmp_path / "0001.png")
    for name in ("list.mp4", "list.mkv", "0001.png"):
        with pytest.raises(MediaError, match="not a readable video") as error:
            decode.probe(tmp_path / name)
        assert error.value.cause == "unreadable"
    # A folder of numbered images, and the pattern that matches their names.
    for name in (".", "%04d.png"):
        with pytest.raises(MediaError, match="no such file"):
            decode.probe(tmp_path / name)


def read_damaged(folder: pathlib.Path, count: int) -> list[damage.Outcome]:
    """Reads `count` damaged files in a subprocess and returns the outcomes."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.damage", folder, str(count)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        # Only a hang takes this long.
        timeout=1800,
    )
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    assert process.returncode == 0, (lines[-1:], process.stderr[-2000:])
    assert lines.pop()["peak"] < 1024
    return [damage.Outcome(**line) for line in lines if "cause" in line]


def check_damaged(outcomes: list[damage.Outcome]) -> collections.Counter:
    """Checks that each file is read, or rejected with a known cause and a message naming it."""
    for outcome in outcomes:
        assert outcome.cause in CAUSES | {""}, outcome
        assert outcome.cause == "" or outcome.name in outcome.message
        assert outcome.seconds < 2 * damage.LIMITS.decode_seconds
    return collections.Counter(outcome.cause for outcome in outcomes)


def test_damaged_files_are_read_or_rejected_with_a_cause(tmp_path):
    causes = check_damaged(read_damaged(tmp_path, 60))
    assert causes.total() == 60
    assert {"", "empty", "unreadable", "damaged"} <= set(causes)


@pytest.mark.slow
def test_thousand_damaged_files_leak_no_memory(tmp_path):
    outcomes = read_damaged(tmp_path, 1000)
    causes = check_damaged(outcomes)
    assert causes.total() == 1000
    assert {"frame size", "no video", "no frames", "no decoder", "damaged"} <= set(causes)
    # By then every decoder has been loaded.
    settled = outcomes[300].megabytes
    assert outcomes[-1].megabytes - settled < 30, [outcome.megabytes for outcome in outcomes[::50]]
    for cause, count in causes.most_common():
        print(f"{count:5d} {cause or 'read'}")


def test_training_skips_and_names_every_damaged_sample(tmp_path, samples, rule, shape):
    """Damaged files with valid annotations, mixed with good samples, lose no batches."""
    kinds = {odd_videos.KINDS[name].file.split(".")[0]: name for name in damage.SEEDS}
    bad = []
    for path, _ in damage.make(tmp_path, 60):
        kind = odd_videos.KINDS[kinds[path.stem.split("_", 1)[1].removesuffix(f"_{_}")]]
        message = {"role": "user", "content": "<VIDEO_CONTEXT>What?"}
        answer = {"role": "assistant", "content": "That."}
        video = VideoRef(str(path), damage.described(kind))
        bad.append(sources.Sample(path.name, (message, answer), (video,)))
    strict = dataclasses.replace(rule, limits=damage.LIMITS)
    packs = [(good, *bad[i : i + 2]) for i, good in zip(range(0, 60, 2), samples * 9, strict=False)]
    short = plan.Plan(packs, 1.0, 1.0, 1.0, 1)
    wide = dataclasses.replace(shape, tokens=2048, patches=9600)
    options = loader.LoaderOptions(workers=0, threads=2, prefetch=2, cache_bytes=0)
    loaded = list(loader.batches(short, strict, wide, 1, 0, options))
    assert len(loaded) == 30
    skipped = [sentence for batch in loaded for sentence in batch.skipped]
    expected = {sample.id for sample in bad if not is_readable(sample, strict)}
    assert len(skipped) == len(expected) > 10
    assert {sentence.split(":")[0].removeprefix("sample ") for sentence in skipped} == expected


def is_readable(sample: sources.Sample, rule) -> bool:
    try:
        rule.lay_out(sample).read_patches()
    except MediaError:
        return False
    return True


def test_config_limits_reach_the_layout_rule():
    config = configs.tiny()
    config.data.limit_frames, config.data.limit_hours = 77, 0.5
    rule = from_config.data.layout_rule(config)
    assert (rule.limits.frames, rule.limits.hours) == (77, 0.5)
    assert rule.rand_max_frames == 24
