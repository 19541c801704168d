"""Small mp4 files that declare many samples: constant sizes and run lengths take no bytes."""

import struct
from collections.abc import Sequence


def box(name: str, *parts: bytes, wide: bool = False) -> bytes:
    """A box; `wide` writes its size in 64 bits."""
    body = b"".join(parts)
    if wide:
        return struct.pack(">I4sQ", 1, name.encode(), len(body) + 16) + body
    return struct.pack(">I4s", len(body) + 8, name.encode()) + body


def full(name: str, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    """A box with version and flags."""
    return box(name, struct.pack(">I", version << 24 | flags), *parts)


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def table(name: str, *rows: Sequence[int]) -> bytes:
    """A box of a counted table."""
    return full(name, words(len(rows)), *(words(*row) for row in rows))


def track(
    samples: int = 0,
    number: int = 1,
    handler: str = "vide",
    codec: str = "avc1",
    delta: int = 512,
    chunks: Sequence[int] = (48,),
    per_chunk: int | None = None,
    edits: Sequence[tuple[int, int]] = (),
    extra: bytes = b"",
) -> bytes:
    """A track box.

    Args:
      samples: how many it declares.
      number: its id.
      handler: `vide` or `soun`.
      codec: name of the sample entry.
      delta: ticks between samples, of 1 / 12800 second.
      chunks: file offsets.
      per_chunk: samples of each chunk; `samples` by default.
      edits: (duration, first tick) each.
      extra: more boxes of the sample table.
    """
    entry = bytes(6) + struct.pack(">H", 1)
    if handler == "vide":
        entry += bytes(16) + struct.pack(">HH", 64, 64) + words(0x480000, 0x480000, 0)
        entry += struct.pack(">H", 1) + bytes(32) + struct.pack(">Hh", 24, -1)
    else:
        entry += bytes(8) + struct.pack(">HHHHI", 2, 16, 0, 0, 48000 << 16)
    tables = box(
        "stbl",
        full("stsd", words(1), box(codec, entry)),
        table("stts", (samples, delta)),
        table("stsc", (1, samples if per_chunk is None else per_chunk, 1)),
        full("stsz", words(20, samples)),
        table("stco", *((offset,) for offset in chunks)),
        extra,
    )
    media = box(
        "mdia",
        full("mdhd", words(0, 0, 12800, (samples * delta) % 2**32, 0x55C40000)),
        full("hdlr", words(0), handler.encode(), bytes(13)),
        box("minf", box("dinf", full("dref", words(1), full("url ", flags=1))), tables),
    )
    header = full(
        "tkhd", words(0, 0, number, 0, 1000), bytes(60), words(64 << 16, 64 << 16), flags=3
    )
    listed = table("elst", *((*edit, 0x10000) for edit in edits)) if edits else b""
    return box("trak", header, box("edts", listed) if edits else b"", media)


def movie(*tracks: bytes, wide: bool = False, extra: bytes = b"") -> bytes:
    """A movie box."""
    header = full("mvhd", words(0, 0, 1000, 1000, 0x10000), bytes(80))
    return box("moov", header, *tracks, extra, wide=wide)


def file(*boxes: bytes) -> bytes:
    """A file of these boxes, after 5 KB of media data."""
    return (
        box("ftyp", b"isom", words(0x200), b"isomiso2avc1mp41")
        + box("mdat", bytes(5000))
        + b"".join(boxes)
    )


def fragments(count: int, samples: int) -> bytes:
    """Movie fragments that declare `samples` each, with defaults of size and duration."""
    extends = box("mvex", full("trex", words(1, 1, 512, 20, 0)))
    fragment = box(
        "moof",
        full("mfhd", words(1)),
        box("traf", full("tfhd", words(1), flags=0x20000), full("trun", words(samples))),
    )
    return movie(track(), extra=extends) + count * (fragment + box("mdat", bytes(16)))
