"""Image decoding, image sizes, and errors for broken files."""

import io
import pathlib
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from data_pipelines.image import decode
from data_pipelines.media_error import MediaError
from data_pipelines.video import info as infos
from data_pipelines.video import resize
from ivx.evaluation import probes

RED, WHITE = (255, 0, 0), (255, 255, 255)


def gradient(width: int, height: int) -> np.ndarray:
    """uint8 [h, w, 3] in which all pixels differ."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 // height, x * 255 // width, (x + y) % 256], -1).astype(np.uint8)


def read(path) -> np.ndarray:
    return decode.read(path, decode.probe(path))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp", "avif"])
def test_exif_orientation_rotates_pixels_and_size(tmp_path, orientation, kind):
    picture = np.zeros((48, 80, 3), np.uint8)
    picture[:24, :40] = 255  # the upper left quarter, as stored
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"x.{kind}"
    Image.fromarray(picture).save(path, exif=exif)
    found = decode.probe(path)
    assert (found.width, found.height) == ((48, 80) if orientation > 4 else (80, 48))
    upright = read(path)
    high, wide = (side // 2 for side in upright.shape[:2])
    quarters = (
        upright[:high, :wide],
        upright[:high, wide:],
        upright[high:, wide:],
        upright[high:, :wide],
    )
    # Where EXIF puts the upper left corner, counted clockwise from the upper left.
    corner = {1: 0, 2: 1, 3: 2, 4: 3, 5: 0, 6: 1, 7: 2, 8: 3}[orientation]
    assert [part.mean() > 128 for part in quarters] == [n == corner for n in range(4)]


def test_every_pixel_format_is_converted_to_eight_bit_rgb(tmp_path):
    grey = gradient(40, 30)[..., 0]
    for name, image, expected in (
        ("grey.png", Image.fromarray(grey), grey),
        ("grey16.png", Image.fromarray(grey.astype(np.uint16) * 257), grey),
        ("grey16.tif", Image.fromarray(grey.astype(np.uint16) * 257), grey),
        ("bits.png", Image.fromarray(grey).convert("1"), None),
        ("palette.gif", Image.fromarray(grey).convert("P"), grey),
        ("palette.png", Image.fromarray(gradient(40, 30)).quantize(64), None),
        ("cmyk.jpg", Image.fromarray(gradient(40, 30)).convert("CMYK"), None),
        ("rgb.webp", Image.fromarray(gradient(40, 30)), None),
        ("rgb.avif", Image.fromarray(gradient(40, 30)), None),
        ("rgb.bmp", Image.fromarray(gradient(40, 30)), gradient(40, 30)),
    ):
        image.save(tmp_path / name)
        pixels = read(tmp_path / name)
        assert pixels.shape == (30, 40, 3) and pixels.dtype == np.uint8, name
        if expected is not None:
            rgb = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, 2)
            np.testing.assert_array_equal(pixels, rgb, name)
        elif name != "bits.png":
            assert np.abs(pixels.astype(int) - gradient(40, 30)).mean() < 20, name


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_white(tmp_path, mode):
    """The colour stored in transparent pixels, here black, is ignored."""
    image = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 20, 30))
    image.paste((0, 0, 0, 128), (0, 0, 10, 30))
    image.convert(mode).save(tmp_path / "x.png")
    pixels = read(tmp_path / "x.png")
    assert (pixels[:, 20:] == 255).all() and (pixels[:, 10:20] == 0).all()
    if mode != "P":
        assert np.abs(pixels[:, :10].astype(int) - 127).max() <= 1


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_first_of_several_frames_is_read(tmp_path, kind):
    pages = [Image.new("RGB", (32, 32), colour) for colour in (RED, WHITE)]
    path = tmp_path / f"x.{kind}"
    pages[0].save(path, save_all=True, append_images=pages[1:], lossless=True)
    assert (read(path) == RED).all()


def png_with_size(width: int, height: int) -> bytes:
    """A short PNG whose header declares this size."""
    contents = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + b"x" * 9)
    chunks = [
        struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
        for content in contents
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def broken_files(folder) -> dict[str, str]:
    """Writes unusable files; returns file name -> expected error."""
    buffer = io.BytesIO()
    Image.fromarray(gradient(300, 200)).save(buffer, "JPEG")
    intact = buffer.getvalue()
    contents = {
        "missing.jpg": (None, "no such file"),
        "empty.png": (b"", "the file is empty"),
        "text.png": (b"This is a text." * 50, "not a readable image; expected one of JPEG, PNG"),
        "truncated.jpg": (
            intact[: len(intact) // 2],
            "not a readable image (image file is truncated",
        ),
        "cut.jpg": (intact[:15], "not a readable image"),
        "giant.png": (png_with_size(9000, 9000), "9000x9000 pixels; 1 to 67108864 are allowed"),
        "monster.png": (png_with_size(2**31 - 1, 2**31 - 1), "not a readable image (Image size"),
        "nothing.png": (png_with_size(0, 10), "not a readable image"),
        "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a readable"),
    }
    for name, (content, _) in contents.items():
        if content is not None:
            (folder / name).write_bytes(content)
    Image.fromarray(gradient(40, 30)[..., 0].astype(np.float32)).save(folder / "float.tif")
    Image.fromarray(gradient(201 * 2, 2)).save(folder / "long.png")
    return {name: sentence for name, (_, sentence) in contents.items()} | {
        "float.tif": "32-bit pixels",
        "long.png": "402x2 pixels has an aspect ratio above 200",
    }


def test_error_names_the_broken_file_and_its_cause(tmp_path, rule):
    for name, cause in broken_files(tmp_path).items():
        prompt = probes.user_prompt("", "Who?", [str(tmp_path / name)])["prompt"]
        with pytest.raises(MediaError) as error:
            rule.lay_out(prompt, generate=True).read_patches()
        assert name in str(error.value) and cause in str(error.value)
        assert "\n" not in str(error.value)


def test_jpeg_of_many_scans_is_rejected_before_decoding(tmp_path):
    """Each takes a tenth of a second at 8192 x 8192 pixels, and 99 bytes."""
    stored = io.BytesIO()
    Image.fromarray(gradient(64, 48)).save(
        stored, "JPEG", progressive=True, exif=b"Exif\0\0\xff\xda"
    )
    data, path = stored.getvalue(), tmp_path / "x.jpg"
    path.write_bytes(data + b"\xff\xda" * 200)  # what follows the image is not read
    assert read(path).shape == (48, 64, 3)
    last = data.rindex(b"\xff\xda")
    path.write_bytes(data[:last] + data[last:-2] * 50 + data[-2:])
    assert read(path).shape == (48, 64, 3)
    path.write_bytes(data[:last] + data[last:-2] * 200 + data[-2:])
    with pytest.raises(MediaError, match=r"x\.jpg: more than 100 scans") as error:
        read(path)
    assert error.value.cause == "too long"


def test_image_that_differs_from_its_annotation_is_rejected(tmp_path):
    Image.fromarray(gradient(40, 30)).save(tmp_path / "x.png")
    with pytest.raises(MediaError, match="40x30 pixels, but the annotation says 30x40"):
        decode.read(tmp_path / "x.png", infos.still(30, 40))


QWEN = resize.QWEN3_VL_IMAGES


@pytest.mark.parametrize(
    ("size", "budget", "expected"),
    [
        ((1080, 1920), QWEN, (1088, 1920)),
        ((1, 1), QWEN, (256, 256)),
        ((16, 24), resize.PixelBudget(4096, 65536), (64, 96)),
        ((32, 32), resize.PixelBudget(1, 65536), (32, 32)),
        ((10, 10), resize.PixelBudget(0, 65536), (32, 32)),
        ((6000, 8000), QWEN, (3520, 4704)),
        ((6400, 32), resize.PixelBudget(1, 2048), (640, 32)),
    ],
)
def test_budget_limits_the_pixels_of_an_image(size, budget, expected):
    """The sizes match Qwen3-VL's processor; tests/test_image_golden.py compares many more."""
    assert resize.still_shape(*size, budget) == expected


def write(image: Image.Image, path: pathlib.Path, orientation: int) -> infos.VideoInfo:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(path, exif=exif)
    return decode.probe(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "I;16"])
@pytest.mark.parametrize("shape", [None, (32, 96), (96, 32), (73, 51)])
def test_blocks_of_rows_give_the_pixels_of_the_whole(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    orientation: int,
    mode: str,
    shape: tuple[int, int] | None,
):
    picture = Image.fromarray(gradient(73, 51))
    if mode == "RGBA":
        picture.putalpha(Image.fromarray(gradient(73, 51)[..., 2]))
    if mode == "I;16":
        picture = Image.fromarray(gradient(73, 51)[..., 2].astype(np.uint16) * 257)
    else:
        picture = picture.convert(mode)
    path = tmp_path / "x.png"
    info = write(picture, path, orientation)
    whole = decode.read(path, info)
    expected = whole if shape is None else resize.resize_frame(whole, *shape)
    for module in (decode, resize):
        monkeypatch.setattr(module, "_BLOCK_PIXELS", 500)
    np.testing.assert_array_equal(decode.read(path, info, shape=shape), expected)
    if shape is not None:
        np.testing.assert_array_equal(resize.resize_frame(whole, *shape), expected)


def test_large_picture_is_in_memory_once(tmp_path: pathlib.Path):
    """3000 x 3000 pixels take 34 MiB as decoded; the result has 24, and a copy as it is made."""
    path = tmp_path / "x.png"
    Image.new("RGBA", (3000, 3000), (9, 9, 9, 99)).save(path)
    program = (
        "import pathlib, re, sys\n"
        "from data_pipelines.image import decode\n"
        "def peak():\n"
        "    text = pathlib.Path('/proc/self/status').read_text()\n"
        "    return int(re.search(r'VmHWM:\\s*(\\d+)', text)[1]) >> 10\n"
        "info = decode.probe(sys.argv[1])\n"
        "decode._BLOCK_PIXELS = 2**16\n"
        "before = peak() - 34  # which the probe has decoded\n"
        "decode.read(sys.argv[1], info)\n"
        "print(peak() - before)\n"
    )
    command = [sys.executable, "-c", program, path]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) < 80, result.stdout  # 172 with copies of the whole picture
