"""Images: how files of every kind are decoded, where they lie, and what is said of bad ones."""

import dataclasses
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from data_pipelines import loader, packing, plan, sources
from data_pipelines.frame_cache import FrameCache
from data_pipelines.image import decode
from data_pipelines.media import ImageRef, VideoRef
from data_pipelines.media_error import MediaError
from data_pipelines.positions import positions_3d
from data_pipelines.sources import Sample
from data_pipelines.video import info as infos
from data_pipelines.video import patches, resize
from ivx.assistant import Assistant
from ivx.errors import UserError
from ivx.evaluation import probes, runner, text_only
from ivx.reporting import frames as page_frames
from ivx.sampling.sampler import Sampler
from ivx.stages import rollouts
from ivx.text import chat_template
from ivx.text.chat_template import TemplateError

RED, WHITE = (255, 0, 0), (255, 255, 255)


def gradient(width: int, height: int) -> np.ndarray:
    """uint8 [h, w, 3] in which no two places are alike."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 // height, x * 255 // width, (x + y) % 256], -1).astype(np.uint8)


def shown(path) -> np.ndarray:
    return decode.read(path, decode.probe(path))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp", "avif"])
def test_an_image_is_turned_upright_in_its_size_as_well(tmp_path, orientation, kind):
    picture = np.zeros((48, 80, 3), np.uint8)
    picture[:24, :40] = 255  # bright in the upper left, as stored
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"x.{kind}"
    Image.fromarray(picture).save(path, exif=exif)
    found = decode.probe(path)
    assert (found.width, found.height) == ((48, 80) if orientation > 4 else (80, 48))
    upright = shown(path)
    high, wide = (side // 2 for side in upright.shape[:2])
    quarters = (
        upright[:high, :wide],
        upright[:high, wide:],
        upright[high:, wide:],
        upright[high:, :wide],
    )
    # Clockwise from the upper left: where EXIF says that the stored corner belongs.
    corner = {1: 0, 2: 1, 3: 2, 4: 3, 5: 0, 6: 1, 7: 2, 8: 3}[orientation]
    assert [part.mean() > 128 for part in quarters] == [n == corner for n in range(4)]


def test_pixels_of_every_kind_become_rgb_of_eight_bits(tmp_path):
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
        found = shown(tmp_path / name)
        assert found.shape == (30, 40, 3) and found.dtype == np.uint8, name
        if expected is not None:
            wanted = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, 2)
            np.testing.assert_array_equal(found, wanted, name)
        elif name != "bits.png":
            assert np.abs(found.astype(int) - gradient(40, 30)).mean() < 20, name


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path, mode):
    """Colours below transparent pixels are of no concern to anybody: here they are black."""
    image = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 20, 30))
    image.paste((0, 0, 0, 128), (0, 0, 10, 30))
    image.convert(mode).save(tmp_path / "x.png")
    found = shown(tmp_path / "x.png")
    assert (found[:, 20:] == 255).all() and (found[:, 10:20] == 0).all()
    if mode != "P":
        assert np.abs(found[:, :10].astype(int) - 127).max() <= 1


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_of_several_frames_the_first_is_shown(tmp_path, kind):
    pages = [Image.new("RGB", (32, 32), colour) for colour in (RED, WHITE)]
    path = tmp_path / f"x.{kind}"
    pages[0].save(path, save_all=True, append_images=pages[1:], lossless=True)
    assert (shown(path) == RED).all()


def declared(width: int, height: int) -> bytes:
    """A PNG of few bytes that says it were of this size."""
    contents = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + b"x" * 9)
    chunks = [
        struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
        for content in contents
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def broken_files(folder) -> dict[str, str]:
    """Files that cannot be shown, and what is to be said of each."""
    buffer = io.BytesIO()
    Image.fromarray(gradient(300, 200)).save(buffer, "JPEG")
    whole = buffer.getvalue()
    contents = {
        "missing.jpg": (None, "no such file"),
        "empty.png": (b"", "the file is empty"),
        "text.png": (b"This is a text." * 50, "not a readable image; expected one of JPEG, PNG"),
        "truncated.jpg": (
            whole[: len(whole) // 2],
            "not a readable image (image file is truncated",
        ),
        "cut.jpg": (whole[:15], "not a readable image"),
        "giant.png": (declared(9000, 9000), "9000x9000 pixels; allowed are 1 to 67108864"),
        "monster.png": (declared(2**31 - 1, 2**31 - 1), "not a readable image (Image size"),
        "nothing.png": (declared(0, 10), "not a readable image"),
        "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a readable"),
    }
    for name, (content, _) in contents.items():
        if content is not None:
            (folder / name).write_bytes(content)
    Image.fromarray(gradient(40, 30)[..., 0].astype(np.float32)).save(folder / "float.tif")
    Image.fromarray(gradient(201 * 2, 2)).save(folder / "long.png")
    return {name: sentence for name, (_, sentence) in contents.items()} | {
        "float.tif": "pixels of 32 bits",
        "long.png": "402x2 pixels is longer than 200 times its width",
    }


def test_broken_files_are_named_with_their_cause(tmp_path, rule):
    for name, cause in broken_files(tmp_path).items():
        asked = probes.of_user("", "Who?", [str(tmp_path / name)])["prompt"]
        with pytest.raises(MediaError) as error:
            rule(asked, generate=True).read_patches()
        assert name in str(error.value) and cause in str(error.value)
        assert "\n" not in str(error.value)


def test_an_image_that_is_not_what_the_annotation_says_is_refused(tmp_path):
    Image.fromarray(gradient(40, 30)).save(tmp_path / "x.png")
    with pytest.raises(MediaError, match="40x30 pixels, where 30x40 were announced"):
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
def test_the_budget_of_an_image_counts_its_pixels(size, budget, expected):
    """Sizes that Qwen3-VL's processor gives; tests/test_image_golden.py compares many."""
    assert resize.still_shape(*size, budget) == expected


@pytest.fixture
def files(tmp_path):
    """Two images of which a sample may be made."""
    for name, size in (("wide.png", (120, 40)), ("high.png", (40, 100))):
        Image.fromarray(gradient(*size)).save(tmp_path / name)
    return tmp_path


def item(url: str, **more) -> dict:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def mixed(files, clip: str = "") -> Sample:
    """Two images and, with a clip, a video between them, in another order than their items."""
    items = [item("wide.png"), item("high.png")]
    middle = "<VIDEO_CONTEXT>" if clip else ""
    if clip:
        items.insert(0, {"type": "video_url", "video_url": {"url": clip}})
    text = f"<IMG_CONTEXT>Is it in {middle} or <IMG_CONTEXT>?"
    user = {"role": "user", "content": [*items, {"type": "text", "text": text}]}
    record = {"messages": [user, {"role": "assistant", "content": "In the first."}]}
    return sources.sample(record, "here", files)


def test_images_and_videos_lie_in_the_order_of_the_text(files, data_folder, rule):
    clip = next((data_folder / "clips" / "train").iterdir())
    (files / "clip.mp4").write_bytes(clip.read_bytes())
    layout = rule(mixed(files, "clip.mp4"))
    assert [clip.still for clip in layout.clips] == [True, False, True]
    assert [clip.path[-8:] for clip in layout.clips] == ["wide.png", "clip.mp4", "high.png"]
    words = rule.tokenizer
    image, video = words.image_pad, words.video_pad
    first, middle, last = layout.clips
    counts = [int(np.prod(clip.token_shape)) * len(clip.times) for clip in layout.clips]
    kinds = layout.tokens[layout.is_visual].tolist()
    assert kinds == [image] * counts[0] + [video] * counts[1] + [image] * counts[2]
    text = words.decode(layout.tokens, skip_special=False)
    pads = "<|image_pad|>" * counts[0]
    assert f"user\n<|vision_start|>{pads}<|vision_end|>Is it in <" in text
    rows, grids = layout.read_patches()
    assert [len(row) for row in rows] == layout.slice_sizes == [len(grid) for grid in grids]
    shapes = [first.token_shape, *[middle.token_shape] * len(middle.times), last.token_shape]
    np.testing.assert_array_equal(layout.positions, positions_3d(layout.is_visual, shapes))


def test_an_image_is_a_slice_of_the_same_picture_twice(files, rule):
    layout = rule(mixed(files))
    picture = layout.clips[0].read()
    assert picture.shape == (2, *(layout.clips[0].height, layout.clips[0].width), 3)
    np.testing.assert_array_equal(picture[0], picture[1])
    assert layout.clips[0].height <= layout.clips[0].width
    rows = layout.read_patches()[0][0].reshape(-1, 3, 2, patches.ROW // 6)
    np.testing.assert_array_equal(rows[:, :, 0], rows[:, :, 1])


def test_images_have_a_budget_of_their_own(files, rule):
    budget = resize.PixelBudget(1, 2048)
    small = dataclasses.replace(rule, image_budget=budget)
    assert [clip.token_shape for clip in small(mixed(files)).clips] == [(1, 2), (2, 1)]
    assert [clip.token_shape for clip in rule(mixed(files)).clips] == [(1, 4), (4, 2)]


def test_images_are_packed_and_loaded_beside_videos(files, samples, rule, shape):
    """Measured once, then read by threads and by workers alike; a file that goes is named."""
    measured = plan.measure([mixed(files), *samples[:4]], rule, shape)
    assert measured.dropped == []
    assert [ref.info for ref in measured.samples[0].images] == [
        infos.still(120, 40),
        infos.still(40, 100),
    ]
    packs = plan.make_plan([plan.Member(measured, 1.0)], shape, count=4, open_packs=2, seed=0)
    options = loader.LoaderOptions(workers=0, threads=2, prefetch=2, cache_bytes=2**20)
    found = list(loader.batches(packs, rule, shape, 2, 0, options))
    image_pad = rule.tokenizer.image_pad
    tokens = np.concatenate([one.batch.tokens for one in found])
    visual = np.concatenate([one.batch.visual_index for one in found])
    count = (tokens == image_pad).sum()
    assert count > 0 and count % 12 == 0 and (visual[tokens == image_pad] >= 0).all()
    forked = list(loader.batches(packs, rule, shape, 2, 0, dataclasses.replace(options, workers=1)))
    for one, other in zip(found, forked, strict=True):
        np.testing.assert_array_equal(one.batch.patches, other.batch.patches)
    (files / "high.png").unlink()
    again = list(loader.batches(packs, rule, shape, 2, 0, options))
    assert any("high.png: no such file" in text for one in again for text in one.skipped)


def test_a_sample_whose_image_is_too_large_for_a_pack_is_left_out(files, rule):
    small = packing.PackShape(tokens=512, patches=24, slice_block=24)
    measured = plan.measure([mixed(files)], rule, small)
    assert len(measured.dropped) == 1 and "a slice of 32 patches in blocks of 24" in str(measured)


def test_the_cache_knows_an_image_from_a_video_of_the_same_name(files, rule):
    sample = mixed(files)
    layout = rule(sample)
    video = rule.clip(VideoRef(sample.images[0].path, infos.still(120, 40)))
    still = dataclasses.replace(video, still=True)
    cache = FrameCache(2**20)
    reads = []
    for clip in (still, video):
        one = dataclasses.replace(layout, clips=(clip,))
        cache.read(one)
        reads.append(len(cache._pixels))
    assert reads == [1, 2]


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        ({}, "an image item needs"),
        ({"url": 5}, "an image item needs"),
        ({"url": "a.png", "detail": "high"}, "an image item needs"),
        ({"url": "a.png", "image_wh": [0, 0]}, "image_wh does not describe .*0x0 pixels"),
        ({"url": "a.png", "image_wh": [5]}, "image_wh does not describe"),
        ({"url": "a.png", "image_wh": "large"}, "image_wh does not describe"),
        ({"url": "../secret.png"}, "leads out of the media_root"),
        ({"url": "/etc/passwd"}, "leads out of the media_root"),
        ({"url": "https://example.com/a.png"}, "copy the media under media_root"),
        ({"url": "data:image/png;base64,iVBO"}, None),
    ],
)
def test_bad_image_items_are_named_by_file_and_line(tmp_path, image, complaint, rule):
    user = {"role": "user", "content": [{"type": "image_url", "image_url": image}]}
    (tmp_path / "x.jsonl").write_text(json.dumps({"messages": [user]}))
    data_set = sources.DataSet("x", (tmp_path / "x.jsonl",), tmp_path, 1.0)
    if complaint is None:  # an address that is no file: found out when it is opened
        [found] = sources.read_samples(data_set)
        with pytest.raises(MediaError, match="no such file"):
            rule(found)
        return
    with pytest.raises(sources.AnnotationError, match=complaint) as error:
        sources.read_samples(data_set)
    assert "x.jsonl:1" in str(error.value)


@pytest.mark.parametrize(
    ("text", "videos", "images", "complaint"),
    [
        ("<IMG_CONTEXT>", [], [], "a <IMG_CONTEXT> without an image to stand for"),
        ("<IMG_CONTEXT>", ["V"], [], "a <IMG_CONTEXT> without an image to stand for"),
        ("<VIDEO_CONTEXT>", ["V"], ["I"], "no <IMG_CONTEXT> in the text"),
        ("<|image_pad|>", [], [], "reserved token"),
    ],
)
def test_images_without_a_place_and_places_without_an_image(text, videos, images, complaint):
    with pytest.raises(TemplateError, match=complaint):
        chat_template.render([{"role": "user", "content": text}], videos, images=images)


def test_a_tool_may_show_images_and_outside_text_cannot_forge_them():
    messages = [
        {"role": "user", "content": "<IMG_CONTEXT>Who?"},
        {"role": "tool", "content": "<IMG_CONTEXT>"},
        {"role": "assistant", "content": "<IMG_CONTEXT> is what I saw."},
    ]
    text = "".join(piece.text for piece in chat_template.render(messages, [], images=["A", "B"]))
    assert "user\nAWho?" in text and "<tool_response>\nB\n" in text
    assert "<IMG_CONTEXT> is what" in text
    assert chat_template.placeholders(messages) == [chat_template.IMAGE_PLACEHOLDER] * 2
    assert "<IMG_CONTEXT>" not in chat_template.harmless("a <IMG_CONTEXT>")


@pytest.mark.parametrize("definition", ["m2la"], indirect=True)
def test_questions_about_images_are_evaluated_and_rolled_out(files, rule, definition, params):
    """Through the same sampler; a picture stands in the report."""
    truth = {"family": "attribute", "format": "open", "answer": "red", "values": ["red"]}
    sample = dataclasses.replace(mixed(files), truths=(truth,))
    sampler = Sampler(definition, params, rule.tokenizer.end_of_turn)
    gone = dataclasses.replace(sample, id="gone", images=(ImageRef("/no.png", None),) * 2)
    outcome = runner.run(sampler, rule, [sample, gone], limit=3, batch_size=2)
    [found] = outcome.predictions
    assert found.video.endswith("wide.png") and found.question == "Is it in  or ?"
    assert ["/no.png: no such file" in sentence for sentence in outcome.skipped] == [True]
    assert page_frames.strip(found.video).startswith("data:image/jpeg;base64,")
    assert text_only.questions(sample)[0][0] == "Is it in  or ?"
    spec = rollouts.RolloutSpec(prompts=1, group=2, temperature=1.0, limit=3, seed=0)
    roller = rollouts.Roller([runner.as_prompt(sample)], rule, sampler, spec, 2**20)
    drawn, skipped = roller.roll(params, 0)
    assert len(drawn) == 2 and not skipped
    assert rollouts.with_answer(drawn[0]).clips == drawn[0].prompt.clips


@pytest.mark.parametrize("definition", ["m2la"], indirect=True)
def test_an_assistant_is_asked_about_images(files, data_folder, rule, definition, params):
    assistant = Assistant(rule, Sampler(definition, params, rule.tokenizer.end_of_turn))
    video = next((data_folder / "clips" / "train").iterdir())
    images = [files / "wide.png", files / "high.png"]
    stills = [clip.still for clip in assistant.look(video, "Who?", images).clips]
    assert stills == [True, True, False]
    answers = {
        assistant.generate(*asked, max_new_tokens=4, images=shown)
        for asked, shown in (
            ((video, "Who?"), images),
            ((None, "Who?"), images),
            ((None, "Hi"), ()),
        )
    }
    assert all(isinstance(answer, str) for answer in answers)
    with pytest.raises(UserError, match="no such file"):
        assistant.generate(None, "Who?", images=[files / "none.png"])
