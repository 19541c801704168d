"""Videos of every odd kind and damaged ones: exact frames, or a cause; never a crash or a hang."""

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
from data_pipelines.video import decode
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import Limits, Meter
from ivx import build
from ivx import config as configs
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
    """Makes each kind once."""
    folder, paths = tmp_path_factory.mktemp("odd"), {}

    def make(name: str) -> pathlib.Path:
        if name not in paths:
            paths[name] = odd_videos.make(name, folder)
        return paths[name]

    return make


def numbers(path: pathlib.Path, indices, info: VideoInfo | None = None) -> list[int]:
    info = info or decode.probe(path)
    found = decode.read_frames(path, info, np.asarray(indices), odd_videos.read_number)
    return found


@pytest.mark.parametrize("name", odd_videos.KINDS)
def test_every_kind_gives_exactly_the_wanted_frames(made, name):
    """All in a row, each alone, and some with gaps."""
    kind, path = odd_videos.KINDS[name], made(name)
    info = decode.probe(path)
    assert info.num_frames == kind.frames
    assert sorted((info.width, info.height)) == sorted(kind.size)
    everything = list(range(kind.frames))
    assert numbers(path, everything, info) == everything
    assert [numbers(path, [index], info) for index in everything] == [[i] for i in everything]
    some = [index for index in everything if index % 7 in (2, 3)]
    assert not some or numbers(path, some, info) == some


@pytest.mark.parametrize("name", odd_videos.KINDS)
def test_frames_are_converted_once_and_in_their_order(made, name, monkeypatch):
    """Also where a seek fails on the way, and all is read again from the start."""
    kind, path = odd_videos.KINDS[name], made(name)
    wanted, seen = [i for i in range(kind.frames) if i % 10 in (0, 1, 9)], []

    def see(frame: np.ndarray) -> None:
        seen.append(odd_videos.read_number(frame))

    go_to = decode._Packets.go_to
    monkeypatch.setattr(decode, "_READ_OVER", 0)
    for fails in (False, True):

        def goes(packets, number, fails=fails):
            if fails and not packets._from_start and number > 0:
                raise decode._CannotSeekError
            go_to(packets, number)

        monkeypatch.setattr(decode._Packets, "go_to", goes)
        decode.read_frames(path, decode.probe(path), np.array(wanted), see)
        assert seen == wanted
        seen.clear()


def test_times_are_those_of_the_file(made):
    steps = np.cumsum([0, *odd_videos.KINDS["variable_rate"].step * 8])[: odd_videos.FRAMES]
    np.testing.assert_allclose(
        decode.frame_times(made("variable_rate")), steps / 90000, rtol=0, atol=1e-6
    )
    for name in ("h264", "late_start", "h264_avi"):
        np.testing.assert_allclose(
            decode.frame_times(made(name)), np.arange(odd_videos.FRAMES) / 10, atol=1e-6
        )


@pytest.mark.parametrize("name", ["h264", "no_b_frames"])
def test_what_an_edit_list_hides_is_not_shown(made, tmp_path, name):
    """The hidden frames are decoded, since the shown ones need them, and not counted."""
    path = odd_videos.edit_list(made(name), tmp_path / "edited.mp4", hidden=5)
    assert decode.probe(path).num_frames == odd_videos.FRAMES - 5
    assert numbers(path, [0, 3, 18]) == [5, 8, 23]
    assert decode.frame_times(path)[0] == 0


def test_times_that_jump_do_not_move_frames(made, tmp_path):
    path = odd_videos.jumping(made("no_b_frames"), tmp_path / "jumping.mp4")
    assert numbers(path, [0, 11, 12, 23]) == [0, 11, 12, 23]
    path = odd_videos.joined(made("transport"), tmp_path / "joined.ts")
    assert decode.probe(path).num_frames == 2 * odd_videos.FRAMES
    assert numbers(path, [0, 23, 24, 30, 47]) == [0, 23, 0, 6, 23]


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
def test_times_before_zero_hide_nothing(made, tmp_path, suffix):
    """Matroska has no such times, and tells none of those frames."""
    plain = made("no_b_frames")
    path = odd_videos.negative(plain, tmp_path / f"negative.{suffix}", before=7)
    assert decode.probe(path).num_frames == odd_videos.FRAMES
    assert numbers(path, [0, 6, 7, 8, 23]) == [0, 6, 7, 8, 23]
    np.testing.assert_allclose(decode.frame_times(path), np.arange(odd_videos.FRAMES) / 10)


def test_times_that_make_a_video_last_for_weeks_are_refused(made, tmp_path):
    """As FLV writes negative ones."""
    path = odd_videos.negative(made("no_b_frames"), tmp_path / "negative.flv", before=7)
    with pytest.raises(MediaError, match="hours long; allowed are 24") as error:
        decode.probe(path)
    assert error.value.cause == "too long"


def test_a_sequence_of_images_is_read_as_a_video_is(tmp_path):
    """By its folder; a frame that is missing, empty, torn or of another size is named."""
    path = odd_videos.folder(tmp_path / "frames")
    assert frames_of_folder(path) == list(range(odd_videos.FRAMES))
    frame = path / "00000006.jpg"
    whole = frame.read_bytes()
    for damaged, cause in (
        (whole[: len(whole) // 2], "unreadable"),
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
            frames_of_folder(path)
        assert error.value.cause == cause


def frames_of_folder(path: pathlib.Path) -> list[int]:
    info = VideoRef(str(path), None).resolved()
    everything = np.arange(info.num_frames)
    return media.read_video(str(path), info, everything, odd_videos.read_number, Meter(Limits()))


def test_rotation_turns_the_picture_counter_clockwise(made):
    path = made("rotated")
    info = decode.probe(path)
    [picture] = decode.read_frames(path, info, np.array([0]), lambda frame: frame)
    # The dark corner was the upper left one.
    corners = [picture[y, x].mean() for y in (2, -3) for x in (2, -3)]
    assert np.argmin(corners) == 2
    assert picture.shape == (odd_videos.WIDTH, odd_videos.HEIGHT, 3)


def test_frames_that_differ_from_the_annotation_are_refused(made):
    path = made("h264")
    for info, said in (
        (VideoInfo(25, 10.0, 64, 48), "24 frames, where 25 were announced"),
        (VideoInfo(24, 25.0, 64, 48), "10 frames a second, where 25 were announced"),
        (VideoInfo(24, 10.0, 48, 64), "64x48 pixels, where 48x64 were announced"),
    ):
        with pytest.raises(MediaError, match=said) as error:
            numbers(path, [0], info)
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
def test_each_limit_stops_the_reading(made, limits, cause):
    path = made("h264")
    info = decode.probe(path)
    with pytest.raises(MediaError) as error:
        decode.read_frames(path, info, np.arange(24), np.asarray, Meter(Limits(**limits)))
    assert error.value.cause == cause and path.name in str(error.value)


def test_time_is_looked_at_while_frames_are_decoded(made):
    """Whoever spends it: here what is done with each frame."""
    path, done = made("h264"), []
    info = decode.probe(path)

    def slow(frame: np.ndarray) -> np.ndarray:
        end = time.thread_time() + 0.1
        while time.thread_time() < end:
            pass
        done.append(1)
        return frame

    with pytest.raises(MediaError, match=r"0\.5 seconds") as error:
        decode.read_frames(path, info, np.arange(24), slow, Meter(Limits(decode_seconds=0.5)))
    assert error.value.cause == "time limit"
    assert len(done) < 24


def test_the_work_of_all_clips_of_a_sample_is_counted_together(made):
    path, meter = made("h264"), Meter(Limits(decode_gib=150 * 64 * 48 / 2**30))
    info = decode.probe(path)
    decode.read_frames(path, info, np.arange(24), np.asarray, meter)
    with pytest.raises(MediaError, match="GiB of pictures"):
        for _ in range(5):
            decode.read_frames(path, info, np.arange(24), np.asarray, meter)


def test_playlists_and_pictures_are_no_videos(made, tmp_path):
    """A playlist names files of its own choice, which must not be opened."""
    made("h264")
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {made('h264')}\n")
    (tmp_path / "list.mkv").write_text("#EXTM3U\n#EXTINF:2,\nhttp://127.0.0.1:9/a.ts\n")
    Image.new("RGB", (64, 48)).save(tmp_path / "0001.png")
    for name in ("list.mp4", "list.mkv", "0001.png"):
        with pytest.raises(MediaError, match="not a readable video") as error:
            decode.probe(tmp_path / name)
        assert error.value.cause == "unreadable"
    # A folder of numbered pictures, and the pattern that would name them.
    for name in (".", "%04d.png"):
        with pytest.raises(MediaError, match="no such file"):
            decode.probe(tmp_path / name)


def read_damaged(folder: pathlib.Path, count: int) -> list[damage.Outcome]:
    """What became of `count` damaged files, read one after the other by another process."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.damage", folder, str(count)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        # Not a limit on speed: only a hang takes so long.
        timeout=1800,
    )
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == 0, (lines[-1:], ran.stderr[-2000:])
    assert lines.pop()["peak"] < 1024
    return [damage.Outcome(**line) for line in lines if "cause" in line]


def check_damaged(outcomes: list[damage.Outcome]) -> collections.Counter:
    """Each is read, or refused for a cause of the list that its message names with the file."""
    for outcome in outcomes:
        assert outcome.cause in CAUSES | {""}, outcome
        assert outcome.cause == "" or outcome.name in outcome.message
        assert outcome.seconds < 2 * damage.LIMITS.decode_seconds
    return collections.Counter(outcome.cause for outcome in outcomes)


def test_damaged_files_are_read_or_refused_for_a_cause(tmp_path):
    causes = check_damaged(read_damaged(tmp_path, 60))
    assert causes.total() == 60
    assert {"", "empty", "unreadable", "damaged"} <= set(causes)


@pytest.mark.slow
def test_a_thousand_damaged_files_leave_no_memory_behind(tmp_path):
    outcomes = read_damaged(tmp_path, 1000)
    causes = check_damaged(outcomes)
    assert causes.total() == 1000
    assert {"frame size", "no video", "no frames", "no decoder", "damaged"} <= set(causes)
    # Once every decoder has been loaded.
    settled = outcomes[300].megabytes
    assert outcomes[-1].megabytes - settled < 30, [one.megabytes for one in outcomes[::50]]
    for cause, count in causes.most_common():
        print(f"{count:5d} {cause or 'read'}")


def test_training_skips_counts_and_names_every_damaged_sample(tmp_path, samples, rule, shape):
    """Good annotations of files that went bad, among good samples; all batches still come."""
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
    skipped = [sentence for one in loaded for sentence in one.skipped]
    expected = {sample.id for sample in bad if not readable(sample, strict)}
    assert len(skipped) == len(expected) > 10
    assert {sentence.split(":")[0].removeprefix("sample ") for sentence in skipped} == expected


def readable(sample: sources.Sample, rule) -> bool:
    try:
        rule(sample).read_patches()
    except MediaError:
        return False
    return True


def test_the_limits_of_a_config_reach_what_is_read():
    config = configs.tiny()
    config.data.limit_frames, config.data.limit_hours = 77, 0.5
    rule = build.layout_rule(config)
    assert (rule.limits.frames, rule.limits.hours) == (77, 0.5)
    assert rule.rand_max_frames == 24
