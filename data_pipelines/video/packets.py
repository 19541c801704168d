"""Reads the packets of an indexed stream, numbered in decode order, with seeking to keyframes."""

from collections.abc import Iterator

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from data_pipelines.video.index import Index

# Up to this many packets are skipped by reading them, which costs about as much as one seek.
_MAX_SKIPPED = 16
# Codecs in which no frame refers to a frame marked as non-reference. In HEVC, frames of a higher
# temporal layer may refer to one. VP9 and AV1 decoders ignore the mark.
_DROPPABLE = ("h264", "mpeg4", "mpeg2video", "mpeg1video")


class SeekError(Exception):
    """The container did not seek to the requested keyframe."""


class PacketReader:
    """Iterates over (number, packet), starting at the packet that `seek` selected.

    Args:
      container: if `from_start`, it must be newly opened.
      stream: a stream of `container`.
      index: the index of `stream`.
      from_start: read all packets from the start of the file instead of seeking.

    Attributes:
      context: the codec context of the stream.
      droppable: whether the decoder may drop non-reference frames.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        index: Index,
        from_start: bool = False,
    ) -> None:
        self.context = stream.codec_context
        self.droppable = index.timed and _has_droppable_frames(stream)
        self._container, self._stream, self._index = container, stream, index
        self._from_start = from_start
        self._packets = container.demux(stream)
        self._next = 0 if from_start else None
        keyframes = index.keyframes
        self._number_by_time = dict(
            zip(index.times[keyframes].tolist(), keyframes.tolist(), strict=True)
        )

    def seek(self, number: int) -> None:
        """Makes the keyframe `number` the next packet.

        Raises:
          SeekError: the container cannot seek to it.
        """
        self._skip_to = number
        near = self._next is not None and self._next <= number <= self._next + _MAX_SKIPPED
        if self._from_start or near:
            return
        if not self._index.timed:
            raise SeekError
        time = int(self._index.times[number])
        try:
            self._container.seek(time, stream=self._stream, backward=True)
        except av.error.FFmpegError as error:
            raise SeekError from error
        self._packets, self._next = self._container.demux(self._stream), None

    def __iter__(self) -> Iterator[tuple[int, Packet]]:
        for packet in self._packets:
            if not packet.size:
                continue
            if self._next is None:
                self._next = self._number_by_time.get(packet.pts) if packet.is_keyframe else None
                if self._next is None:
                    continue
                if self._next > self._skip_to:
                    raise SeekError
            self._next += 1
            if self._next > self._skip_to:
                yield self._next - 1, packet
        if self._next is None:
            raise SeekError


def _has_droppable_frames(stream: VideoStream) -> bool:
    context = stream.codec_context
    if context.name == "hevc":
        # The field numTemporalLayers of the hvcC record.
        record = context.extradata or b""
        return len(record) > 22 and record[0] == 1 and record[21] >> 3 & 7 == 1
    return context.name in _DROPPABLE
