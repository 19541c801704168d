"""Decodes still images with Pillow to upright RGB with eight bits per channel.

    file content                result
    EXIF orientation            pixels and size are rotated upright
    transparency                composited on white
    16-bit grey                 the upper eight bits, rounded
    palette, grey, CMYK, 1 bit  converted to RGB
    several frames              the first

Float and 32-bit pixels have no known range and are rejected.
"""

import contextlib
import pathlib
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, ImageOps

from data_pipelines.media_error import MediaError
from data_pipelines.video import info as infos
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import USUAL_LIMITS, Limits

# A subset of what Pillow opens: some other formats run external programs or are documents.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
# EXIF orientations that swap width and height.
_SIDEWAYS = (5, 6, 7, 8)


def probe(path: str | pathlib.Path, limits: Limits = USUAL_LIMITS) -> VideoInfo:
    """Reads the upright size of an image.

    Raises:
      MediaError: the file is missing, empty, damaged, too large, or not an image.
    """
    with _open(path, limits) as image:
        width, height = image.size
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        # Pillow already reports the upright size of a TIFF.
        if orientation in _SIDEWAYS and image.format != "TIFF":
            width, height = height, width
        return infos.still(width, height)


def read(path: str | pathlib.Path, info: VideoInfo, limits: Limits = USUAL_LIMITS) -> np.ndarray:
    """Decodes an image: uint8 [h, w, 3].

    Args:
      path: the file.
      info: the annotated size; the resized shape was computed from it.
      limits: on the file's size.

    Raises:
      MediaError: as in `probe`; also if the size differs from `info`, or the pixel format is
        rejected.
    """
    with _open(path, limits) as image:
        picture = _rgb(ImageOps.exif_transpose(image), path)
    if picture.size != (info.width, info.height):
        width, height = picture.size
        raise MediaError(
            f"{path}: the image has {width}x{height} pixels, but the annotation says"
            f" {info.width}x{info.height}; the file was replaced, or the annotation ignores its"
            " rotation",
            "differs",
        )
    return np.asarray(picture)


@contextlib.contextmanager
def _open(path: str | pathlib.Path, limits: Limits) -> Iterator[Image.Image]:
    """Opens an image without decoding it; Pillow errors in the body become `MediaError`."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise MediaError(f"{path}: no such file", "missing")
    if not path.stat().st_size:
        raise MediaError(f"{path}: the file is empty", "empty")
    try:
        with Image.open(path, formats=FORMATS) as image:
            limits.check_size(path, *image.size)
            yield image
    except MediaError:
        raise
    except Image.UnidentifiedImageError as error:
        raise MediaError(
            f"{path}: not a readable image; expected one of {', '.join(FORMATS)}", "unreadable"
        ) from error
    except Exception as error:  # decoders raise many types of errors on damaged files
        raise MediaError(f"{path}: not a readable image ({error})", "unreadable") from error


def _rgb(image: Image.Image, path: str | pathlib.Path) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise MediaError(
            f"{path}: 32-bit pixels have no known range; save the image with 8 or 16 bits"
        )
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
