"""Files that declare many samples in few bytes are refused before anything is allocated."""

import pathlib
import resource
import subprocess
import sys
import time

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.media_error import MediaError
from data_pipelines.video import declared, decode
from data_pipelines.video.limits import USUAL_LIMITS
from tests import crafted_mp4 as mp4
from tests import odd_videos

MANY = 60_000_000
SOUND = {"handler": "soun", "codec": "sowt", "number": 2}

HANDLER, TABLE = mp4.full("hdlr", bytes(20)), mp4.full("stsz", mp4.words(20, MANY))


def movie(*tracks: bytes, **options: bool) -> bytes:
    return mp4.file(mp4.movie(*tracks, **options))


CRAFTED = {
    "one track": movie(mp4.track(MANY)),
    "sizes of 64 bits": movie(mp4.track(MANY), wide=True),
    "movie first": mp4.movie(mp4.track(MANY)) + bytes(8),
    "sound": movie(mp4.track(1), mp4.track(MANY, handler="soun", codec="mp4a", number=2)),
    "blocks of sound": movie(
        mp4.track(1), mp4.track(5, **SOUND, delta=1, chunks=[48] * 10, per_chunk=10**9)
    ),
    "many tracks": movie(*(mp4.track(5_000, number=number) for number in range(1, 99))),
    "edits": movie(mp4.track(4_000, edits=[(4_000_000, 0)] * 100)),
    "one fragment": mp4.file(mp4.fragments(1, MANY)),
    "many fragments": mp4.file(mp4.fragments(100, MANY // 100)),
    "table in meta data": movie(mp4.track(3, extra=mp4.box("meta", bytes(4), HANDLER, TABLE))),
    "movie in free space": mp4.file(mp4.movie(mp4.track(MANY)).replace(b"moov", b"free")),
    "listed fragments": mp4.file(
        mp4.movie(*(mp4.track(1, number=number) for number in range(1, 99))),
        mp4.box("sidx", bytes(120_000)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ["elst", "stsc"])
def test_table_that_takes_no_disk_is_not_read(tmp_path: pathlib.Path, name: str):
    """A sparse file declares a table of 64 GiB."""
    path, table = tmp_path / "video.mp4", mp4.box(name, b"\0\0\0\0\xff\xff\xff\xff")
    movie = mp4.movie(mp4.track(1, **SOUND, delta=1, extra=table))
    start = movie.index(table)
    # Boxes that last until the end of the file have the length 0.
    for box in ("moov", "trak", "mdia", "minf", "stbl", name):
        position = movie.rindex(box.encode()) - 4
        movie = movie[:position] + bytes(4) + movie[position + 4 :]
    with path.open("wb") as file:
        file.write(movie[: start + len(table)])
        file.truncate(2**36)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MediaError, match=r"video\.mp4: a table of [\d,]+ rows is too long"):
        decode.probe(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10  # KiB


@pytest.mark.parametrize("name", ["elst", "stsc"])
@pytest.mark.parametrize("size", range(0, 12, 4))
def test_table_without_rows_is_read(tmp_path: pathlib.Path, name: str, size: int):
    path = odd_videos.make("h264", tmp_path)
    timing = mp4.full("stts", mp4.words(1, 1, 1))
    sound = mp4.full("hdlr", mp4.words(0), b"soun")
    extra = mp4.box("moov", mp4.box("trak", sound, timing, mp4.box(name, bytes(size))))
    path.write_bytes(path.read_bytes() + extra)
    declared.check(path, USUAL_LIMITS)


@pytest.mark.parametrize("name", CRAFTED)
def test_declared_samples_are_refused_by_count(tmp_path: pathlib.Path, name: str):
    path = tmp_path / "video.mkv"  # the content counts, not the name
    path.write_bytes(CRAFTED[name])
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(MediaError, match=r"video\.mkv: declares more than [\d,]+ samples"):
        decode.probe(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10  # KiB
    assert time.perf_counter() - start < 5


def test_uncompressed_sound_and_empty_edits_are_not_counted_by_sample(tmp_path: pathlib.Path):
    hour = 48_000 * 3_600
    sound = mp4.track(hour, **SOUND, delta=1, chunks=[48] * 7_200, per_chunk=24_000)
    path = tmp_path / "video.mov"
    path.write_bytes(movie(mp4.track(900, edits=[(1, 2**32 - 1)] * 300), sound) + bytes(10**6))
    declared.check(path, USUAL_LIMITS)


@pytest.mark.parametrize("name", ["h264", "mjpeg", "transport", "vp9", "gif"])
def test_real_video_passes(tmp_path: pathlib.Path, name: str):
    declared.check(odd_videos.make(name, tmp_path), USUAL_LIMITS)


@pytest.mark.parametrize("flags", ["faststart", "frag_keyframe+empty_moov", "dash+global_sidx"])
def test_real_movie_of_any_structure_passes(tmp_path: pathlib.Path, flags: str):
    path = tmp_path / "video.mp4"
    with (
        av.open(str(odd_videos.make("h264", tmp_path))) as source,
        av.open(str(path), "w", container_options={"movflags": flags}) as copy,
    ):
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    declared.check(path, USUAL_LIMITS)
    assert decode.probe(path).num_frames == odd_videos.FRAMES


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_boxes_are_refused_or_pass_at_once(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
):
    content = bytearray(CRAFTED[data.draw(st.sampled_from(sorted(CRAFTED)))])
    for _ in range(data.draw(st.integers(1, 8))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.mp4"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    start = time.perf_counter()
    try:
        declared.check(path, USUAL_LIMITS)
    except MediaError as error:
        assert str(path) in str(error)
    assert time.perf_counter() - start < 5


def test_deep_and_endless_boxes_are_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "video.mp4"
    content = b""
    for _ in range(100):
        content = mp4.box("udta", content)
    path.write_bytes(content)
    with pytest.raises(MediaError, match="nested too deeply"):
        declared.check(path, USUAL_LIMITS)
    monkeypatch.setattr(declared, "_MAX_BOXES", 100)
    path.write_bytes(mp4.box("moov", bytes(0)) * 200)
    with pytest.raises(MediaError, match="more than 100 boxes"):
        declared.check(path, USUAL_LIMITS)


def test_allocations_of_the_library_are_limited(tmp_path: pathlib.Path):
    """A file that the count does not understand: the library refuses the allocation itself."""
    path = tmp_path / "video.mp4"
    path.write_bytes(CRAFTED["one track"])
    program = (
        "import pathlib, re, sys\n"
        "from data_pipelines.video import container, declared\n"
        "from data_pipelines.video.limits import USUAL_LIMITS\n"
        "declared.check = lambda *_: None\n"
        "with container.open_stream(sys.argv[1], USUAL_LIMITS): pass\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(int(re.search(r'VmHWM:\\s*(\\d+)', status)[1]) >> 10)\n"
    )
    command = [sys.executable, "-c", program, path]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) < 300  # MiB; without the limit 2,100
