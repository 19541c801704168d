"""Videos of variable rate: what is shown at a told time is on show then, by the packets' times."""

import base64
import dataclasses
import io
import json
import pathlib

import av
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from PIL import Image

from data_pipelines import layout, sources
from data_pipelines.media import VideoRef
from data_pipelines.prepared import read, write
from data_pipelines.video import decode, frames, resize
from data_pipelines.video.info import VideoInfo
from data_pipelines.views import VideoFile, ViewConfig
from ivx.reporting import frames as pages
from tests import cut_videos

# 30 frames a second for 2 seconds, then 2 a second up to 8 seconds.
TIMES = [*(round(k * 1000 / 30) for k in range(60)), *range(2000, 8000, 500)]
LENGTH, COUNT = 8.0, 72


@pytest.fixture(scope="module", params=["mp4", "mkv", "ts"])
def video(request, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("variable") / f"variable.{request.param}"
    return cut_videos.encode(path, cut_videos.CODINGS["h264"], TIMES)


@pytest.fixture
def dense(rule) -> layout.LayoutRule:
    return dataclasses.replace(rule, frame_rule=frames.FrameRule(2.0, 4, 64))


def on_show(path: pathlib.Path, seconds: np.ndarray, clip: layout.Clip) -> list[np.ndarray]:
    """The pictures on show at `seconds`, found by decoding the file from its start."""
    with av.open(str(path)) as container:
        shown = list(container.decode(video=0))
    times = np.array([frame.time for frame in shown])
    numbers = [np.flatnonzero(times - times[0] <= second + 1e-3)[-1] for second in seconds]
    pictures = [shown[number].to_ndarray(format="rgb24") for number in numbers]
    return [resize.resize_frame(picture, clip.height, clip.width) for picture in pictures]


def check(path: pathlib.Path, clip: layout.Clip) -> None:
    seconds = clip.indices / clip.info.rate
    np.testing.assert_allclose(clip.times, seconds.reshape(-1, 2).mean(1))
    np.testing.assert_array_equal(clip.read(), on_show(path, seconds, clip))


def test_length_is_that_of_the_packets(video):
    info = decode.probe(video)
    assert info.num_frames == COUNT
    # Only mp4 stores for how long the last frame stays.
    np.testing.assert_allclose(
        info.num_frames / info.rate, LENGTH, atol=0.01 if video.suffix == ".mp4" else 0.5
    )
    np.testing.assert_allclose(decode.frame_times(video), np.array(TIMES) / 1000, atol=1e-3)


def test_samples_are_evenly_spaced_in_time(video, dense):
    """The first quarter of the video has five sixths of the frames, and gets a quarter."""
    clip = dense.video_clip(VideoRef(str(video), None))
    seconds = np.unique(clip.indices) / clip.info.rate
    assert len(seconds) >= 14 and np.ptp(np.diff(seconds)) < 0.15
    assert (seconds < 2).mean() == pytest.approx(0.25, abs=0.05)
    check(video, clip)


@pytest.mark.parametrize("span", [(0.0, 1.0), (1.5, 2.5), (5.0, 6.0), (7.0, 8.0)])
def test_span_shows_what_is_on_show_in_it(video, dense, span):
    clip = dense.video_clip(VideoRef(str(video), None, span, fps=4.0))
    assert len(clip.indices) >= 2
    assert all(span[0] - 0.06 <= time < span[1] for time in clip.times)
    check(video, clip)


def test_annotated_file_is_planned_unopened_and_shows_the_same(video, dense, monkeypatch):
    info = decode.probe(video)
    probed = dense.video_clip(VideoRef(str(video), None))
    with monkeypatch.context() as patched:
        patched.setattr(decode, "probe", None)
        annotated = dense.video_clip(VideoRef(str(video), VideoInfo(COUNT, info.rate, 96, 64)))
    assert annotated.text == probed.text
    np.testing.assert_array_equal(annotated.read(), probed.read())


def test_rate_of_an_annotation_that_is_not_exact_tells_true_times(tmp_path, dense):
    """The file has 24 frames a second, its annotation says 25."""
    coding = dataclasses.replace(cut_videos.CODINGS["h264"], rate=24)
    path = cut_videos.encode(tmp_path / "a.mp4", coding, 240)
    clip = dense.video_clip(VideoRef(str(path), VideoInfo(240, 25.0, 96, 64)))
    check(path, clip)


def test_views_of_an_agent_cover_the_video(video):
    file = VideoFile(video.name, decode.probe(video))
    shots = file.shots(ViewConfig(shot_seconds=2.0))
    assert shots[-1][1] == round(file.seconds, 1) == pytest.approx(LENGTH, abs=0.5)
    assert [round(start) for start, _ in shots] == [0, 2, 4, 6]


def test_frames_of_a_page_are_those_that_the_model_saw(video, dense):
    clip = dense.video_clip(VideoRef(str(video), None))
    expected = on_show(video, clip.indices / clip.info.rate, clip)
    shown = pages.thumbnails(str(video), clip.indices.tolist())
    for url, picture in zip(shown, expected, strict=True):
        data = io.BytesIO(base64.b64decode(url.partition(",")[2]))
        small = np.asarray(Image.open(data).resize(picture.shape[1::-1]), np.float32)
        assert np.abs(small - np.float32(picture)).mean() < 12


@pytest.mark.parametrize("proxy_fps", [0.0, 4.0])
def test_prepared_data_show_the_same(video, dense, tmp_path, proxy_fps):
    message = {
        "role": "user",
        "content": [
            {"type": "video_url", "video_url": {"url": video.name, "span": [4.0, 7.0]}},
            {"type": "text", "text": "<VIDEO_CONTEXT>?"},
        ],
    }
    sample = {"messages": [message, {"role": "assistant", "content": "That."}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(sample))
    mixture = tmp_path / "data.json"
    mixture.write_text(
        json.dumps({"a": {"annotation": "a.jsonl", "media_root": str(video.parent)}})
    )
    [data_set] = sources.read_mixture(mixture, ("a",))
    online = dense.lay_out(sources.read_samples(data_set)[0])
    write.prepare(mixture, ("a",), tmp_path / "out", dense, write.Options(0, proxy_fps))
    prepared = dense.lay_out(read.PreparedSamples(tmp_path / "out" / "a")[0])
    [expected], [clip] = online.clips, prepared.clips
    if not proxy_fps:
        np.testing.assert_array_equal(prepared.tokens, online.tokens)
        np.testing.assert_array_equal(clip.read(), expected.read())
        return
    seconds = clip.indices / clip.info.rate
    pictures = np.float32(on_show(video, seconds, clip))
    # A proxy shows each frame from the first multiple of 1/4 s at which it is on show.
    assert np.abs(clip.read() - pictures).mean() < 12


def test_video_that_starts_later_than_its_sound_begins_at_time_0(tmp_path):
    path = tmp_path / "late.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height = 96, 64
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 64000), np.float32), "fltp", "mono")
        samples.sample_rate, samples.pts = 16000, 0
        container.mux(sound.encode(samples) + sound.encode())
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(cut_videos.picture(number), format="rgb24")
            frame.pts = number + 20
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    np.testing.assert_allclose(decode.frame_times(path), np.arange(20) / 10, atol=1e-6)
    info = decode.probe(path)
    assert (info.num_frames, info.rate) == (20, pytest.approx(10))


@hypothesis.given(
    rate=strategies.floats(1.0, 120.0),
    count=strategies.integers(1, 3000),
    tick=strategies.sampled_from([1e-3, 1 / 90000, 1e-6]),
    span=strategies.tuples(strategies.floats(0, 1), strategies.floats(0, 1)),
)
@hypothesis.settings(max_examples=200, deadline=None)
def test_constant_rate_is_sampled_by_index(rate, count, tick, span):
    """Also where a container rounds times to milliseconds."""
    seconds = np.round(np.arange(count) / rate / tick) * tick
    measured = (count - 1) / seconds[-1] if count > 1 else rate
    info = VideoInfo(count, measured, 64, 64)
    length = count / measured
    part = tuple(sorted(share * length for share in span))
    for shown in (None, part if part[1] - part[0] > 2 / measured else None):
        indices = frames.frame_indices(info, frames.FrameRule(2.0, 4, 64), shown)
        assert frames.on_show(seconds, indices, measured) is indices


@hypothesis.given(
    gaps=strategies.lists(strategies.floats(0.01, 20.0), min_size=2, max_size=300),
    fps=strategies.floats(0.1, 10.0),
)
@hypothesis.settings(max_examples=200, deadline=None)
def test_every_sample_is_on_show_at_its_time(gaps, fps):
    """No stretch longer than the distance of two samples is left out."""
    edges = np.cumsum([0.0, *gaps])
    seconds, length = edges[:-1], edges[-1]
    info = VideoInfo(len(gaps), len(gaps) / length, 64, 64)
    indices = frames.frame_indices(info, frames.FrameRule(fps, 2, 768))
    shown = frames.on_show(seconds, indices, info.rate)
    if frames.is_steady(seconds, info.rate):
        return
    told = indices / info.rate
    assert (seconds[shown] <= told + 1e-3).all() and (told < edges[shown + 1]).all()
    distance = max(np.diff(told).max(), length - told[-1])
    assert set(np.flatnonzero(np.array(gaps) > distance + 1e-2)) <= set(shown.tolist())
