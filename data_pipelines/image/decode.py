"""Decoding of still images by Pillow: upright, RGB, eight bits a channel.

    what a file holds           what is shown
    EXIF orientation            the image turned upright, in its size as well
    transparency                the image on white
    grey of 16 bits             its upper eight bits, rounded
    palette, grey, CMYK, 1 bit  as RGB
    several frames              the first

Other pixels (float, 32 bits) have no range that is known, and are refused.
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

# Not all that Pillow opens: some of the rest run other programs, or are documents of many pages.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
# Of EXIF: those that exchange width and height.
_SIDEWAYS = (5, 6, 7, 8)


def probe(path: str | pathlib.Path, limits: Limits = USUAL_LIMITS) -> VideoInfo:
    """Reads the size of an image, turned upright.

    Raises:
      MediaError: the file is missing, empty, damaged, too large, or no image.
    """
    with _open(path, limits) as image:
        width, height = image.size
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        # Of a TIFF Pillow gives the size upright.
        if orientation in _SIDEWAYS and image.format != "TIFF":
            width, height = height, width
        return infos.still(width, height)


def read(path: str | pathlib.Path, info: VideoInfo, limits: Limits = USUAL_LIMITS) -> np.ndarray:
    """Decodes an image: uint8 [h, w, 3].

    Args:
      path: the file.
      info: what the file is said to be; a size chosen for another would distort it.
      limits: on its size.

    Raises:
      MediaError: as `probe`, or another size than said, or pixels of a kind that is refused.
    """
    with _open(path, limits) as image:
        picture = _rgb(ImageOps.exif_transpose(image), path)
    if picture.size != (info.width, info.height):
        width, height = picture.size
        raise MediaError(
            f"{path}: an image of {width}x{height} pixels, where {info.width}x{info.height} were"
            " announced; replaced, or announced without its rotation?",
            "differs",
        )
    return np.asarray(picture)


@contextlib.contextmanager
def _open(path: str | pathlib.Path, limits: Limits) -> Iterator[Image.Image]:
    """Opens an image without decoding it; what Pillow raises becomes `MediaError`."""
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
    except Exception as error:  # damaged files make the decoders raise errors of many kinds
        raise MediaError(f"{path}: not a readable image ({error})", "unreadable") from error


def _rgb(image: Image.Image, path: str | pathlib.Path) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise MediaError(
            f"{path}: pixels of 32 bits, whose range is not known; save it with 8 or 16 bits"
        )
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
