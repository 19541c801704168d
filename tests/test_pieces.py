"""Files larger than a piece lie in several records, so that none is ever held in memory whole."""

import hashlib
import pathlib
import shutil
from concurrent import futures
from multiprocessing import get_context

import numpy as np
import pytest

from data_pipelines import nearby
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import media_shards, proxy, shards
from data_pipelines.prepared.media_shards import MediaFile, MediaJob
from data_pipelines.video import decode
from data_pipelines.video.limits import Limits, Meter
from tests import odd_videos
from tests.annotations import frames_of


def job(stem: pathlib.Path, *paths: pathlib.Path, proxy_fps: float = 0.0) -> MediaJob:
    files = tuple(MediaFile("video", str(path), whole=False) for path in paths)
    return MediaJob(stem, files, proxy_fps, Limits())


def address(stem: pathlib.Path, entry: dict) -> str:
    return shards.address(str(stem), entry["record"], "a.mp4", pieces=entry.get("pieces", 1))


def test_pieces_make_the_file_again(tmp_path, monkeypatch):
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
        with nearby.local(address(stem, entry)) as file:
            assert pathlib.Path(file).read_bytes() == data


def test_a_piece_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "PIECE", 1000)
    stem = tmp_path / "00000"
    media_shards.write(job(stem, odd_videos.make("h264", tmp_path)))
    [entry] = shards.read_facts(stem)["media"]
    path = address(stem, entry | {"pieces": entry["pieces"] + 1})
    with pytest.raises(MediaError, match=f"record {entry['pieces']} cannot be read"):
        list(shards.pieces(path))


def test_a_frame_of_a_folder_is_one_record(tmp_path, monkeypatch):
    frames_of(tmp_path / "clip")
    monkeypatch.setattr(shards, "PIECE", 100)
    media_shards.write(job(tmp_path / "00000", tmp_path / "clip"))
    [entry] = shards.read_facts(tmp_path / "00000")["media"]
    assert "a frame of a folder may have 100 bytes" in entry["error"]


@pytest.mark.parametrize("name", ["h264", "variable_rate", "h264_avi", "one_frame"])
def test_a_proxy_of_a_higher_rate_repeats_frames(tmp_path, name):
    """As annotations of another rate may make it; the last is repeated at the end."""
    path = odd_videos.make(name, tmp_path)
    info = decode.probe(path)
    proxy.encode(str(path), info, 2 * info.rate, str(tmp_path / "proxy.mp4"))
    found = decode.probe(tmp_path / "proxy.mp4")
    wanted = proxy.indices(info, 2 * info.rate)
    assert found.num_frames == len(wanted) == 2 * info.num_frames
    seen = decode.read_frames(
        tmp_path / "proxy.mp4", found, np.arange(len(wanted)), odd_videos.read_number
    )
    assert seen == wanted.tolist()


def test_a_long_proxy_may_take_the_work_of_many_samples():
    """A limit is for a sample; what all samples of a video may take together, a proxy may."""
    limits = Limits(decode_gib=1.0)
    for samples in (1, 3):
        meter = Meter(limits, samples)
        meter.add("a.mp4", samples * 2**30)
        with pytest.raises(MediaError, match=f"more than {samples} GiB"):
            meter.add("a.mp4", 1)


def megabytes() -> float:
    """Most memory of this process since `forget`."""
    status = pathlib.Path("/proc/self/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def forget() -> None:
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def store_and_read(small: pathlib.Path, large: pathlib.Path) -> tuple[float, float]:
    """What preparing and reading the large file takes more than the small one, in MiB."""
    grown = []
    for path in (small, large):
        stem = path.with_suffix("")
        forget()
        media_shards.write(job(stem, path))
        stored = megabytes()
        [entry] = shards.read_facts(stem)["media"]
        assert entry["bytes"] == path.stat().st_size
        forget()
        with nearby.local(address(stem, entry)) as file:
            assert pathlib.Path(file).stat().st_size == entry["bytes"]
        grown.append((stored, megabytes()))
    (a, b), (c, d) = grown
    return c - a, d - b


def test_memory_does_not_grow_with_the_size_of_a_file(tmp_path):
    """A video of 160 MiB, most of it an empty box at the end."""
    small, large = tmp_path / "small.mp4", tmp_path / "large.mp4"
    shutil.copy(odd_videos.make("h264", tmp_path), small)
    shutil.copy(small, large)
    box = 160 * 2**20
    with large.open("ab") as file:
        file.write(box.to_bytes(4, "big") + b"free")
        file.truncate(file.tell() - 8 + box)
    with futures.ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        stored, read = pool.submit(store_and_read, small, large).result()
    # Five times a piece, as array_record reads and writes.
    assert stored < 100 and read < 100
