"""Tells packets that show no frame, where a codec says so in the first bytes of a packet.

VP8 and VP9 encoders send frames that others refer to and that are never displayed, alt-ref frames.
VP9 usually packs one with a displayed frame into one packet, a superframe. An MPEG-4 packet may say
that its frame is not coded. Such packets are tiny, and no more is read of them here.
"""

from collections.abc import Callable

from av.packet import Packet

# The longest MPEG-4 packet without a coded frame, as in libavcodec's decoder.
_LONGEST_NOT_CODED = 19

Test = Callable[[Packet], bool | None]


def test_for(codec: str) -> Test | None:
    """The test for a decoder name: true or false, or None where only decoding can tell.

    Returns:
      None if every packet of the codec shows a frame.
    """
    return {"vp8": _shows_vp8, "vp9": _shows_vp9, "mpeg4": _shows_mpeg4}.get(codec)


def _shows_vp8(packet: Packet) -> bool:
    """RFC 6386, section 9.1: the bit show_frame."""
    return bool(memoryview(packet)[0] >> 4 & 1)


def _shows_vp9(packet: Packet) -> bool:
    """VP9 bitstream specification, sections 6.2 and B: show_existing_frame and show_frame."""
    data = memoryview(packet)
    marker = data[-1]
    if marker >> 5 == 0b110:
        size = 2 + (1 + (marker >> 3 & 3)) * (1 + (marker & 7))
        if len(data) >= size and data[-size] == marker:
            return True
    # Bits: marker (2), profile (2), one reserved in profile 3, show_existing_frame, frame_type,
    # show_frame.
    bits = data[0] << (data[0] >> 4 & 3 == 3)
    return bool(bits >> 3 & 1 or bits >> 1 & 1)


def _shows_mpeg4(packet: Packet) -> bool | None:
    return True if packet.size > _LONGEST_NOT_CODED else None
