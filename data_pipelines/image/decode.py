"""Decodes still images with Pillow to upright RGB with eight bits per channel.

    file content                result
    EXIF orientation            pixels and size are rotated upright
    transparency                composited on white
    16-bit grey                 the upper eight bits, rounded
    palette, grey, CMYK, 1 bit  converted to RGB
    several frames              the first

A JPEG of many scans is rejected: each goes through all pixels and may take only a few bytes.

Float and 32-bit pixels have no known range and are rejected.

Everything after the decoder happens in blocks of rows, so a picture is in memory once as Pillow
decodes it, with 1 to 4 bytes per pixel, and once as the result.
"""

import contextlib
import mmap
import pathlib
import re
import threading
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image

from data_pipelines import media_files
from data_pipelines.media_error import MediaError
from data_pipelines.video import info as infos
from data_pipelines.video import resize
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import USUAL_LIMITS, Limits

# A subset of what Pillow opens: some other formats run external programs or are documents.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
# EXIF orientations that swap width and height.
_SIDEWAYS = (5, 6, 7, 8)
# Orientations whose first row, upright, is the last row or column that is stored.
_REVERSED = (3, 4, 7, 8)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pixels of a block of rows.
_BLOCK_PIXELS = 2**22
# Larger pictures take 0.2 to 1.2 GB to decode, so a process decodes one of them at a time.
_LARGE_PIXELS = 2**24
_ONE_LARGE = threading.Lock()
# Encoders write up to 20 scans. 100 scans of 8192 x 8192 pixels take about ten seconds.
_MOST_SCANS = 100
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# What follows a byte FF in the data of a scan is 00 or the number of a restart marker.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)


def probe(path: str | pathlib.Path, limits: Limits = USUAL_LIMITS) -> VideoInfo:
    """Reads the upright size of an image.

    Raises:
      MediaError: the file is missing, empty, damaged, too large, or not an image.
    """
    with _open(path, limits) as image:
        return infos.still(*_upright_size(image, _orientation(image)))


def read(
    path: str | pathlib.Path,
    info: VideoInfo,
    limits: Limits = USUAL_LIMITS,
    shape: tuple[int, int] | None = None,
) -> np.ndarray:
    """Decodes an image: uint8 [h, w, 3].

    Args:
      path: the file.
      info: the annotated size; the resized shape was computed from it.
      limits: on the file's size.
      shape: (height, width) to resize it to, as `resize.resize_frame`; None keeps its size.

    Raises:
      MediaError: as in `probe`; also if the size differs from `info`, or the pixel format is
        rejected.
    """
    with _open(path, limits) as image:
        if image.mode in ("I", "F"):
            raise MediaError(
                f"{path}: 32-bit pixels have no known range; save the image with 8 or 16 bits"
            )
        orientation = _orientation(image)
        width, height = _upright_size(image, orientation)
        if (width, height) != (info.width, info.height):
            raise MediaError(
                f"{path}: the image has {width}x{height} pixels, but the annotation says"
                f" {info.width}x{info.height}; the file was replaced, or the annotation ignores its"
                " rotation",
                "differs",
            )
        if image.format in ("JPEG", "MPO"):
            _check_scans(pathlib.Path(path))
        blocks = _blocks(image, orientation, width, height)
        if shape is not None and shape != (height, width):
            return resize.resize_blocks(blocks, height, *shape)
        picture, top = np.empty((height, width, 3), np.uint8), 0
        for block in blocks:
            picture[top : top + block.height] = block
            top += block.height
    return picture


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation to apply; Pillow itself rotates a TIFF when it decodes it."""
    return 1 if image.format == "TIFF" else image.getexif().get(ExifTags.Base.Orientation, 1)


def _upright_size(image: Image.Image, orientation: int) -> tuple[int, int]:
    """(width, height)."""
    return image.size[::-1] if orientation in _SIDEWAYS else image.size


def _blocks(image: Image.Image, orientation: int, width: int, height: int) -> Iterator[Image.Image]:
    """Decodes an image and yields blocks of rows, upright and RGB."""
    image.load()
    rows = max(1, _BLOCK_PIXELS // width)
    for top in range(0, height, rows):
        first, last = top, min(top + rows, height)
        if orientation in _REVERSED:
            first, last = height - last, height - first
        sideways = orientation in _SIDEWAYS
        block = image.crop((first, 0, last, width) if sideways else (0, first, width, last))
        if orientation in _UPRIGHT:
            block = block.transpose(_UPRIGHT[orientation])
        yield _rgb(block)


@contextlib.contextmanager
def _open(path: str | pathlib.Path, limits: Limits) -> Iterator[Image.Image]:
    """Opens an image without decoding it; Pillow errors in the body become `MediaError`."""
    path = pathlib.Path(path)
    media_files.check(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            limits.check_size(path, *image.size)
            # Even the orientation of a PNG may be known only after decoding.
            large = image.width * image.height > _LARGE_PIXELS
            with _ONE_LARGE if large else contextlib.nullcontext():
                yield image
    except MediaError:
        raise
    except Image.UnidentifiedImageError as error:
        raise MediaError(
            f"{path}: not a readable image; expected one of {', '.join(FORMATS)}", "unreadable"
        ) from error
    except Exception as error:  # decoders raise many types of errors on damaged files
        raise MediaError(f"{path}: not a readable image ({error})", "unreadable") from error


def _check_scans(path: pathlib.Path) -> None:
    """Checks the number of scans of a JPEG.

    Raises:
      MediaError: it has too many.
    """
    scans, position = 0, 2
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        while (marker := _MARKER.search(data, position)) and marker[1][0] != _END_OF_IMAGE:
            scans += marker[1][0] == _START_OF_SCAN
            if scans > _MOST_SCANS:
                raise MediaError(
                    f"{path}: more than {_MOST_SCANS} scans, which take too long to decode; save"
                    " the image again",
                    "too long",
                )
            position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
