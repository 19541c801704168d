"""Large files are split into several records, so no file is held in memory completely."""

import hashlib
import pathlib
import shutil
from concurrent import futures
from multiprocessing import get_context

import numpy as np
import pytest

from data_pipelines import local_copy
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import media_shards, proxy, shards
from data_pipelines.prepared.media_shards import MediaFile, MediaJob
from data_pipelines.video import decode, frames
from data_pipelines.video.limits import Limits, Meter
from tests import odd_videos
from tests.annotations import frames_of


def job(stem: pathlib.Path, *paths: pathlib.Path, proxy_fps: float = 0.0) -> MediaJob:
    files = tuple(MediaFile("video", str(path), keep_original=False) for path in paths)
    return MediaJob(stem, files, proxy_fps, Limits())


def address(stem: pathlib.Path, entry: dict) -> str:
    return shards.address(str(stem), entry["record"], "a.mp4", pieces=entry.get("pieces", 1))


def test_pieces_restore_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "PIECE", 1000)
    paths = [odd_videos.make(name, tmp_path) for name in ("h264", "one_frame", "hevc")]
    stem = tmp_path / "00000"
    media_shards.write(job(stem, *paths))
    entries = shards.read_facts(stem)["media"]
    assert [entry.get("pieces", 1) for entry in entries] == [
        -(-path.stat().st_size // 1000) for path in paths
    ]
    for path, entry in zip(paths, entries, strict=True):
        data = path.read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        with local_copy.local(address(stem, entry)) as file:
            assert pathlib.Path(file).read_bytes() == data


def test_missing_piece_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "PIECE", 1000)
    stem = tmp_path / "00000"
    media_shards.write(job(stem, odd_videos.make("h264", tmp_path)))
    [entry] = shards.read_facts(stem)["media"]
    path = address(stem, entry | {"pieces": entry["pieces"] + 1})
    with pytest.raises(MediaError, match=f"record {entry['pieces']} cannot be read"):
        list(shards.pieces(path))


def test_frame_of_a_folder_must_fit_one_record(tmp_path, monkeypatch):
    frames_of(tmp_path / "clip")
    monkeypatch.setattr(shards, "PIECE", 100)
    media_shards.write(job(tmp_path / "00000", tmp_path / "clip"))
    [entry] = shards.read_facts(tmp_path / "00000")["media"]
    assert "a frame of a folder may have at most 100 bytes" in entry["error"]


@pytest.mark.parametrize("name", ["h264", "variable_rate", "h264_avi", "one_frame"])
def test_proxy_with_a_higher_rate_repeats_frames(tmp_path, name):
    """The proxy has twice the frames of the original, each at its time."""
    path = odd_videos.make(name, tmp_path)
    info = decode.probe(path)
    proxy.encode(str(path), info, 2 * info.rate, str(tmp_path / "proxy.mp4"))
    proxy_info = decode.probe(tmp_path / "proxy.mp4")
    indices = frames.on_show(
        decode.frame_times(path), proxy.indices(info, 2 * info.rate), info.rate
    )
    assert proxy_info.num_frames == len(indices) == 2 * info.num_frames
    numbers = decode.read_frames(
        tmp_path / "proxy.mp4", proxy_info, np.arange(len(indices)), odd_videos.read_number
    )
    assert numbers == indices.tolist()


def test_limits_scale_with_the_number_of_samples():
    """Encoding a proxy reads as many frames as many samples, so it gets their limits together."""
    limits = Limits(decode_gib=1.0)
    for samples in (1, 3):
        meter = Meter(limits, samples)
        meter.add("a.mp4", samples * 2**30)
        with pytest.raises(MediaError, match=f"more than {samples} GiB"):
            meter.add("a.mp4", 1)


def peak_megabytes() -> float:
    """Peak memory of this process since `reset_peak`."""
    status = pathlib.Path("/proc/self/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def reset_peak() -> None:
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def store_and_read(small: pathlib.Path, large: pathlib.Path) -> tuple[float, float]:
    """Additional MiB to store and to read the large file, compared with the small one."""
    peaks = []
    for path in (small, large):
        stem = path.with_suffix("")
        reset_peak()
        media_shards.write(job(stem, path))
        stored = peak_megabytes()
        [entry] = shards.read_facts(stem)["media"]
        assert entry["bytes"] == path.stat().st_size
        reset_peak()
        with local_copy.local(address(stem, entry)) as file:
            assert pathlib.Path(file).stat().st_size == entry["bytes"]
        peaks.append((stored, peak_megabytes()))
    (a, b), (c, d) = peaks
    return c - a, d - b


def test_memory_does_not_grow_with_file_size(tmp_path):
    """The large video has 160 MiB, most of it an empty box at the end."""
    small, large = tmp_path / "small.mp4", tmp_path / "large.mp4"
    shutil.copy(odd_videos.make("h264", tmp_path), small)
    shutil.copy(small, large)
    box = 160 * 2**20
    with large.open("ab") as file:
        file.write(box.to_bytes(4, "big") + b"free")
        file.truncate(file.tell() - 8 + box)
    with futures.ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        stored, read = pool.submit(store_and_read, small, large).result()
    # array_record takes five times the size of a piece.
    assert stored < 100 and read < 100
