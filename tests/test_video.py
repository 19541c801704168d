"""Frame sampling, decoding, video sizes, patches, and errors for broken files."""

import fractions

import av
import numpy as np
import pytest

from data_pipelines.media_error import MediaError
from data_pipelines.synthetic.write import encode
from data_pipelines.video import decode, frames, patches, resize
from data_pipelines.video.info import VideoInfo

RULE = frames.FrameRule(fps=2.0, min_frames=4, max_frames=16)


@pytest.mark.parametrize(
    ("num_frames", "rate", "count"),
    [(240, 24, 16), (120, 24, 10), (48, 24, 4), (24, 24, 4), (3, 24, 4), (1, 24, 2), (2, 24, 2)],
)
def test_frame_count_follows_rate_and_bounds(num_frames, rate, count):
    """The count is int(N / rate * fps) clipped to the bounds and to N, then padded to even."""
    indices = frames.frame_indices(VideoInfo(num_frames, float(rate), 64, 64), RULE)
    assert len(indices) == count
    assert indices[0] == 0 and indices[-1] == num_frames - 1
    assert (np.diff(indices) >= 0).all()


def test_slice_times_are_the_means_of_their_frames():
    """20 frames at 4 per second, sampled at 2 per second, get the times of transformers."""
    indices = frames.frame_indices(VideoInfo(20, 4.0, 64, 64), RULE)
    assert [f"{time:.1f}" for time in frames.slice_times(indices, 4.0)] == [
        "0.2",
        "1.2",
        "2.4",
        "3.5",
        "4.5",
    ]


@pytest.mark.parametrize(
    ("num_frames", "size", "expected"),
    [
        (16, (720, 1280), (704, 1280)),
        (120, (720, 1280), (320, 608)),
        (768, (720, 1280), (128, 224)),
    ],
)
def test_budget_limits_the_pixels_of_all_frames(num_frames, size, expected):
    """The sizes match Qwen3-VL's processor with its shipped budget of 25,165,824 pixels."""
    budget = resize.PixelBudget(4096, 25165824)
    assert resize.resized_shape(num_frames, *size, budget) == expected


def test_budget_below_one_slice_is_rejected():
    with pytest.raises(ValueError, match="smaller than one slice"):
        resize.PixelBudget(0, 2047)


def test_video_that_cannot_be_shrunk_to_the_budget_is_rejected():
    with pytest.raises(MediaError, match="sample fewer frames"):
        resize.resized_shape(64, 128, 128, resize.PixelBudget(2048, 2048))


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A clip with B-frames and several keyframes, whose frame i has the brightness 3 i + 20."""
    path = tmp_path_factory.mktemp("video") / "numbered.mp4"
    brightness = 3 * np.arange(70) + 20
    pictures = np.broadcast_to(brightness[:, None, None, None], (70, 48, 64, 3)).astype(np.uint8)
    encode(path, np.ascontiguousarray(pictures), rate=10)
    return path


def read_numbers(path, indices) -> list[int]:
    means = decode.read_frames(
        path, decode.probe(path), np.asarray(indices), lambda frame: frame.mean()
    )
    return [round((mean - 20) / 3) for mean in means]


@pytest.mark.parametrize(
    "indices", [[0], [69], [0, 0, 35, 69, 69], [3, 4, 47, 48, 49], list(range(70))]
)
def test_exactly_the_requested_frames_are_decoded(numbered, indices):
    assert read_numbers(numbered, indices) == indices


def test_probe_reads_size_rate_and_length(numbered):
    assert decode.probe(numbered) == VideoInfo(70, 10.0, 64, 48)


def test_variable_frame_rate_video_keeps_all_frames(tmp_path):
    path = tmp_path / "variable.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = fractions.Fraction(1, 90000)
        time = 0
        for number in range(20):
            picture = av.VideoFrame.from_ndarray(
                np.full((64, 64, 3), 10 * number + 20, np.uint8), format="rgb24"
            )
            picture.pts, picture.time_base = time, fractions.Fraction(1, 90000)
            time += 3000 if number % 3 else 9000
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    means = decode.read_frames(
        path, decode.probe(path), np.array([0, 7, 19]), lambda frame: frame.mean()
    )
    assert [round((mean - 20) / 10) for mean in means] == [0, 7, 19]


def broken_files(folder, good: bytes) -> dict:
    """Writes broken files; returns file name -> expected error."""
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a video" * 100)
    (folder / "truncated.mp4").write_bytes(good[: len(good) // 2])
    with av.open(str(folder / "audio.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return {
        "missing.mp4": "no such file",
        "empty.mp4": "empty",
        "text.mp4": "not a readable video",
        "truncated.mp4": "not a readable video",
        "audio.mp4": "no video stream",
    }


def test_error_names_the_broken_file_and_its_cause(tmp_path, numbered):
    for name, cause in broken_files(tmp_path, numbered.read_bytes()).items():
        with pytest.raises(MediaError, match=cause) as error:
            decode.probe(tmp_path / name)
        assert name in str(error.value)


def test_file_that_differs_from_its_annotation_is_rejected(numbered):
    with pytest.raises(MediaError, match="70 frames, but the annotation says 71"):
        decode.read_frames(numbered, VideoInfo(71, 10.0, 64, 48), np.array([0]), np.asarray)
    with pytest.raises(MediaError, match="64x48 pixels, but the annotation says 48x64"):
        decode.read_frames(numbered, VideoInfo(70, 10.0, 48, 64), np.array([0]), np.asarray)


def test_patches_follow_merge_windows_and_pixel_order():
    """Row 4 of a slice begins the second 2 x 2 window; a row is (channel, frame, y, x)."""
    pictures = np.random.default_rng(0).integers(0, 256, (4, 64, 96, 3)).astype(np.uint8)
    rows = patches.patchify(pictures)
    grid = patches.patch_grid(4, 6)
    assert rows.shape == (2, 24, patches.ROW)
    for number in (0, 1, 2, 4, 23):
        row, column, _, _ = grid[number]
        window = pictures[2:4, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        np.testing.assert_array_equal(rows[1, number], window.transpose(3, 0, 1, 2).ravel())
    assert grid[:5, :2].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2]]
