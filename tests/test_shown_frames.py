"""What is sampled are the frames that a decoder gives from the start of a file, and their times."""

import fractions
import pathlib

import av
import numpy as np
import pytest

from data_pipelines.media_error import MediaError
from data_pipelines.video import decode
from data_pipelines.video.info import VideoInfo
from tests import cut_videos

# FFmpeg writes these pairs, but does not read them back.
_UNREADABLE = {("rawvideo", "mov"), ("h263", "mpg")}
# These store no presentation times, so that decoders guess them if frames are reordered.
_UNTIMED = (".avi", ".wmv")
_COMMON = {
    "mp4": ("h264", "h264_refresh", "hevc", "mpeg4", "vp9", "av1", "ffv1"),
    "mkv": ("h264", "h264_open", "mpeg2", "vp8", "snow"),
    "ts": ("h264_open", "hevc", "mpeg2", "mpeg1"),
    "avi": ("h264", "mpeg4", "mpeg4_plain", "h263", "mjpeg", "zmbv", "huffyuv"),
    "mov": ("prores", "qtrle", "svq1", "rpza"),
    "wmv": ("h264", "wmv2"),
    "mpg": ("mpeg2",),
    "webm": ("vp8", "vp9", "av1"),
    "flv": ("flv", "h264", "flashsv"),
    "gif": ("gif",),
    "apng": ("apng",),
    "rm": ("rv20",),
}


def check(path: pathlib.Path) -> None:
    """Compares every frame, read alone and with gaps, with a decode from the start."""
    expected, times = cut_videos.in_sequence(path)
    info = decode.probe(path)
    assert info.num_frames == len(expected)
    for step in (1, 3):
        indices = np.arange(0, len(expected), step)
        read = decode.read_frames(path, info, indices, lambda frame: frame.tobytes())
        assert read == [expected[index] for index in indices]
    for index in range(0, len(expected), 2):
        [frame] = decode.read_frames(path, info, np.array([index]), lambda frame: frame.tobytes())
        assert frame == expected[index], index
    if times is not None and path.suffix not in _UNTIMED:
        np.testing.assert_allclose(decode.frame_times(path), times, atol=1e-6)


def made(folder: pathlib.Path, name: str, container: str, **options) -> pathlib.Path | None:
    """Writes `CODINGS[name]`; None if the container does not take the codec, or loses it."""
    path = folder / f"{name}.{container}"
    try:
        cut_videos.encode(path, cut_videos.CODINGS[name], **options)
        with av.open(str(path)) as opened:
            found = opened.streams.video[0].codec_context is not None
    except (av.error.FFmpegError, ValueError, IndexError):
        return None
    return path if found and (name, container) not in _UNREADABLE else None


def check_with_copies(folder: pathlib.Path, name: str, container: str) -> bool:
    """Checks a file of 24 frames, and copies of it that begin at a keyframe and at another packet.

    Returns:
      Whether the container takes the codec.
    """
    path = made(folder, name, container, times=24)
    if path is None:
        return False
    check(path)
    for first in (10, 13):
        try:
            copy = cut_videos.cut(path, folder / f"{first}_{path.name}", first)
            shown, _ = cut_videos.in_sequence(copy)
        except (av.error.FFmpegError, ValueError, IndexError):
            continue
        if shown:
            check(copy)
    return True


@pytest.mark.parametrize(
    ("container", "name"), [(key, name) for key, names in _COMMON.items() for name in names]
)
def test_sampled_frames_equal_a_full_decode(tmp_path, container, name):
    assert check_with_copies(tmp_path, name, container)


@pytest.mark.slow
@pytest.mark.parametrize("name", cut_videos.CODINGS)
def test_sampled_frames_equal_a_full_decode_in_every_container(tmp_path, name):
    results = [check_with_copies(tmp_path, name, suffix) for suffix in cut_videos.CONTAINERS]
    assert any(results)


@pytest.mark.parametrize("name", ["h264_open", "hevc", "mpeg2", "mpeg4"])
@pytest.mark.parametrize("share", [0.25, 0.45])
def test_transport_stream_cut_anywhere_is_read(tmp_path, name, share):
    path = made(tmp_path, name, "ts", times=40)
    packets = path.read_bytes()
    path.write_bytes(packets[int(len(packets) / 188 * share) * 188 :])
    check(path)


def test_leading_pictures_of_an_open_group_are_no_frames(tmp_path):
    """A player drops them: the file has 2 or 3 packets more than frames, and begins at time 0."""
    for name in ("h264_open", "hevc", "mpeg2"):
        whole = made(tmp_path, name, "ts", times=40)
        with av.open(str(whole)) as container:
            packets = [p for p in container.demux(container.streams.video[0]) if p.size]
        [first] = [k for k, packet in enumerate(packets) if packet.is_keyframe][1:2]
        leading = sum(packet.pts < packets[first].pts for packet in packets[first:])
        path = cut_videos.cut(whole, tmp_path / f"{name}_cut.ts", first)
        assert leading and decode.probe(path).num_frames == len(packets) - first - leading
        assert decode.frame_times(path)[0] == 0
        check(path)


@pytest.mark.parametrize("name", ["h264", "h264_open", "mpeg4", "mpeg4_plain", "hevc", "vp9"])
def test_lying_sync_flags_give_no_wrong_frames(tmp_path, name):
    """Without its table of sync samples, an mp4 calls every packet a keyframe."""
    check(cut_videos.call_all_keyframes(made(tmp_path, name, "mp4")))


@pytest.mark.parametrize("container", ["webm", "mkv", "avi"])
def test_hidden_frames_of_vp8_are_not_counted(tmp_path, container):
    path = made(tmp_path, "vp8", "webm", times=24)
    hidden = (3, 4, 11, 17)
    path = cut_videos.hide_vp8(path, tmp_path / f"hidden.{container}", hidden)
    assert decode.probe(path).num_frames == 24 - len(hidden)
    check(path)


def test_packet_that_shows_nothing_unforeseen_is_replaced_by_the_frame_on_show(
    tmp_path, monkeypatch
):
    """A count that only packets know, as of an annotation, is not a sign of damage."""
    whole = made(tmp_path, "vp8", "webm", times=24)
    path = cut_videos.hide_vp8(whole, tmp_path / "hidden.webm", (11,))
    shown, _ = cut_videos.in_sequence(path)
    info = VideoInfo(24, 10.0, 96, 64)
    monkeypatch.setattr(decode.indexes.hidden, "test_for", lambda _: None)
    indices = np.array([10, 11, 12, 23])
    read = decode.read_frames(path, info, indices, lambda frame: frame.tobytes())
    assert read == [shown[10], shown[10], shown[11], shown[22]]
    path = cut_videos.hide_vp8(whole, tmp_path / "last.webm", (23,))
    assert decode.read_frames(path, info, indices, lambda frame: frame.tobytes()) == [
        cut_videos.in_sequence(path)[0][index] for index in (10, 11, 12, 22)
    ]
    path = cut_videos.hide_vp8(whole, tmp_path / "lost.webm", range(11, 15))
    with pytest.raises(MediaError, match="4 of 24 frames could not be decoded") as error:
        decode.read_frames(path, info, indices, lambda frame: frame)
    assert error.value.cause == "damaged"


@pytest.mark.parametrize(
    ("name", "container"), [("h264", "ts"), ("hevc", "ts"), ("vp9", "webm"), ("mjpeg", "avi")]
)
def test_changing_size_is_read_at_the_first(tmp_path, name, container):
    coding = cut_videos.CODINGS[name]
    parts = [
        cut_videos.encode(tmp_path / f"{size[0]}.{container}", coding, 12, size)
        for size in ((96, 64), (160, 128))
    ]
    path = cut_videos.copy(parts, tmp_path / f"joined.{container}")
    info = decode.probe(path)
    assert (info.width, info.height) == (96, 64)
    frames = decode.read_frames(path, info, np.arange(info.num_frames), lambda frame: frame)
    assert len(frames) == 24 and {frame.shape for frame in frames} == {(64, 96, 3)}
    [later] = decode.read_frames(path, info, np.array([20]), lambda frame: frame)
    np.testing.assert_array_equal(later, frames[20])
    wrong = VideoInfo(info.num_frames, info.rate, 160, 128)
    with pytest.raises(MediaError, match="96x64 pixels, but the annotation says 160x128"):
        decode.read_frames(path, wrong, np.array([0]), lambda frame: frame)


def test_pixels_that_are_not_square_are_read_as_stored(tmp_path):
    coding = cut_videos.CODINGS["h264"]
    path = cut_videos.encode(tmp_path / "wide.mp4", coding, 4, aspect=fractions.Fraction(16, 11))
    info = decode.probe(path)
    assert (info.width, info.height) == (96, 64)
    check(path)


def test_cover_picture_is_no_video(tmp_path):
    with pytest.raises(MediaError, match="only a cover picture") as error:
        decode.probe(cut_videos.cover(tmp_path / "song.mp4", video=False))
    assert error.value.cause == "no video"
    info = decode.probe(cut_videos.cover(tmp_path / "clip.mp4", video=True))
    assert (info.num_frames, info.width) == (20, 96)
