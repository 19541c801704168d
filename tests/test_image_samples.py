"""Samples with images: annotations, template, layout, packing, loader, evaluation and rollouts."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from data_pipelines import loader, packing, plan, sources
from data_pipelines.frame_cache import FrameCache
from data_pipelines.media import ImageRef, VideoRef
from data_pipelines.media_error import MediaError
from data_pipelines.positions import positions_3d
from data_pipelines.sources import Sample
from data_pipelines.video import info as infos
from data_pipelines.video import patches, resize
from data_pipelines.video.limits import Limits
from ivx.assistant import Assistant
from ivx.errors import UserError
from ivx.evaluation import runner, text_only
from ivx.reporting import frames as page_frames
from ivx.sampling.sampler import Sampler
from ivx.stages import rollouts
from ivx.stages.questions import Questions
from ivx.text import chat_template
from ivx.text.chat_template import TemplateError
from tests.test_image import gradient


@pytest.fixture
def files(tmp_path):
    """A folder with two images."""
    for name, size in (("wide.png", (120, 40)), ("high.png", (40, 100))):
        Image.fromarray(gradient(*size)).save(tmp_path / name)
    return tmp_path


def item(url: str, **more) -> dict:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def mixed(files, clip: str = "") -> Sample:
    """Two images and, with a clip, a video between them; its item comes before theirs."""
    items = [item("wide.png"), item("high.png")]
    middle = "<VIDEO_CONTEXT>" if clip else ""
    if clip:
        items.insert(0, {"type": "video_url", "video_url": {"url": clip}})
    text = f"<IMG_CONTEXT>Is it in {middle} or <IMG_CONTEXT>?"
    user = {"role": "user", "content": [*items, {"type": "text", "text": text}]}
    record = {"messages": [user, {"role": "assistant", "content": "In the first."}]}
    return sources.parse_sample(record, "here", files)


def test_images_and_videos_follow_the_order_of_placeholders(files, data_folder, rule):
    clip = next((data_folder / "clips" / "train").iterdir())
    (files / "clip.mp4").write_bytes(clip.read_bytes())
    layout = rule.lay_out(mixed(files, "clip.mp4"))
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


def test_image_is_a_slice_of_two_equal_frames(files, rule):
    layout = rule.lay_out(mixed(files))
    picture = layout.clips[0].read()
    assert picture.shape == (2, *(layout.clips[0].height, layout.clips[0].width), 3)
    np.testing.assert_array_equal(picture[0], picture[1])
    assert layout.clips[0].height <= layout.clips[0].width
    rows = layout.read_patches()[0][0].reshape(-1, 3, 2, patches.ROW // 6)
    np.testing.assert_array_equal(rows[:, :, 0], rows[:, :, 1])


def test_image_budget_differs_from_video_budget(files, rule):
    budget = resize.PixelBudget(1, 2048)
    small = dataclasses.replace(rule, image_budget=budget)
    assert [clip.token_shape for clip in small.lay_out(mixed(files)).clips] == [(1, 2), (2, 1)]
    assert [clip.token_shape for clip in rule.lay_out(mixed(files)).clips] == [(1, 4), (4, 2)]


def test_images_are_packed_and_loaded_with_videos(files, samples, rule, shape):
    """Threads and workers read the same batches; a missing file is reported."""
    measured = plan.measure([mixed(files), *samples[:4]], rule, shape)
    assert measured.dropped == []
    assert [ref.info for ref in measured.samples[0].images] == [
        infos.still(120, 40),
        infos.still(40, 100),
    ]
    packs = plan.make_plan([plan.Member(measured, 1.0)], shape, count=4, batch=2, seed=0)
    options = loader.LoaderOptions(workers=0, threads=2, prefetch=2, cache_bytes=2**20)
    loaded = list(loader.batches(packs, rule, shape, 2, 0, options))
    image_pad = rule.tokenizer.image_pad
    tokens = np.concatenate([item.batch.tokens for item in loaded])
    visual = np.concatenate([item.batch.visual_index for item in loaded])
    count = (tokens == image_pad).sum()
    assert count > 0 and count % 12 == 0 and (visual[tokens == image_pad] >= 0).all()
    forked = list(loader.batches(packs, rule, shape, 2, 0, dataclasses.replace(options, workers=1)))
    for one, other in zip(loaded, forked, strict=True):
        np.testing.assert_array_equal(one.batch.patches, other.batch.patches)
    (files / "high.png").unlink()
    again = list(loader.batches(packs, rule, shape, 2, 0, options))
    assert any("high.png: no such file" in text for item in again for text in item.skipped)


def test_sample_with_image_too_large_for_a_pack_is_dropped(files, rule):
    small = packing.PackShape(tokens=512, patches=24, slice_block=24)
    measured = plan.measure([mixed(files)], rule, small)
    assert len(measured.dropped) == 1 and "a slice of 32 patches in blocks of 24" in str(measured)


def test_cache_distinguishes_image_from_video_at_the_same_path(files, rule, tmp_path):
    layout = rule.lay_out(mixed(files))
    path = tmp_path / "either.gif"
    Image.new("RGB", (120, 40), "red").save(path)
    video = rule.video_clip(VideoRef(str(path), infos.still(120, 40)))
    still = dataclasses.replace(video, still=True)
    cache = FrameCache(2**20)
    reads = []
    for clip in (still, video):
        one = dataclasses.replace(layout, clips=(clip,))
        cache.read(one)
        reads.append(len(cache._entries))
    assert reads == [1, 2]


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        ({}, "an image item needs"),
        ({"url": 5}, "an image item needs"),
        ({"url": "a.png", "colour": "high"}, "an image item has unknown keys colour"),
        ({"url": "a.png", "image_wh": [0, 0]}, r"image_wh \[0, 0\] must be \[width, height\]"),
        ({"url": "a.png", "image_wh": [5]}, r"must be \[width, height\]"),
        ({"url": "a.png", "image_wh": "large"}, r"must be \[width, height\]"),
        ({"url": "../secret.png"}, "leads out of the media_root"),
        ({"url": "/etc/passwd"}, "leads out of the media_root"),
        ({"url": "https://example.com/a.png"}, "copy the media under media_root"),
        ({"url": "data:image/png;base64," + "iVBO" * 5000}, "data:image.* is not a local file"),
        ({"url": "a.png", "image_wh": [float("inf"), 5]}, r"must be \[width, height\]"),
    ],
)
def test_bad_image_item_error_names_file_and_line(tmp_path, image, complaint):
    user = {"role": "user", "content": [{"type": "image_url", "image_url": image}]}
    (tmp_path / "x.jsonl").write_text(json.dumps({"messages": [user]}))
    data_set = sources.DataSet("x", (tmp_path / "x.jsonl",), tmp_path, 1.0)
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
def test_images_must_match_placeholders(text, videos, images, complaint):
    with pytest.raises(TemplateError, match=complaint):
        chat_template.render([{"role": "user", "content": text}], videos, images=images)


def test_tool_results_may_hold_images_and_assistant_text_cannot_forge_them():
    messages = [
        {"role": "user", "content": "<IMG_CONTEXT>Who?"},
        {"role": "tool", "content": "<IMG_CONTEXT>"},
        {"role": "assistant", "content": "<IMG_CONTEXT> is what I saw."},
    ]
    text = "".join(piece.text for piece in chat_template.render(messages, [], images=["A", "B"]))
    assert "user\nAWho?" in text and "<tool_response>\nB\n" in text
    assert "<IMG_CONTEXT> is what" in text
    assert chat_template.placeholders(messages) == [chat_template.IMAGE_PLACEHOLDER] * 2
    assert "<IMG_CONTEXT>" not in chat_template.escape_tags("a <IMG_CONTEXT>")


@pytest.mark.parametrize("definition", ["m2la"], indirect=True)
def test_image_questions_are_evaluated_and_rolled_out(files, rule, definition, params):
    """Both use the same sampler; the report shows the image."""
    truth = {"family": "attribute", "format": "open", "answer": "red", "values": ["red"]}
    sample = dataclasses.replace(mixed(files), truths=(truth,))
    sampler = Sampler(definition, params, rule.tokenizer.end_of_turn)
    gone = dataclasses.replace(sample, id="gone", images=(ImageRef("/no.png", None),) * 2)
    outcome = runner.run(sampler, rule, [sample, gone], limit=3, batch_size=2)
    [prediction] = outcome.predictions
    assert prediction.video.endswith("wide.png") and prediction.question == "Is it in  or ?"
    assert ["/no.png: no such file" in sentence for sentence in outcome.skipped] == [True]
    assert page_frames.strip(prediction.video).startswith("data:image/jpeg;base64,")
    assert text_only.questions(sample)[0][0] == "Is it in  or ?"
    options = loader.LoaderOptions(workers=0, threads=1, prefetch=1, cache_bytes=2**20)
    questions = Questions([runner.as_prompt(sample)], rule, 1, 0, options)
    spec = rollouts.RolloutSpec(group=2, temperature=1.0, limit=3, seed=0)
    roller = rollouts.Roller(questions, rule.tokenizer, sampler, spec)
    drawn, skipped = roller.roll(params, 0)
    assert len(drawn) == 2 and not skipped
    assert rollouts.with_answer(drawn[0]).clips == drawn[0].prompt.clips


@pytest.mark.parametrize("definition", ["m2la"], indirect=True)
def test_assistant_answers_about_images(files, data_folder, rule, definition, params):
    assistant = Assistant(rule, Sampler(definition, params, rule.tokenizer.end_of_turn))
    video = next((data_folder / "clips" / "train").iterdir())
    images = [files / "wide.png", files / "high.png"]
    stills = [clip.still for clip in assistant.look(video, "Who?", images).clips]
    assert stills == [True, True, False]
    answers = {
        assistant.generate(*prompt, max_new_tokens=4, images=prompt_images)
        for prompt, prompt_images in (
            ((video, "Who?"), images),
            ((None, "Who?"), images),
            ((None, "Hi"), ()),
        )
    }
    assert all(isinstance(answer, str) for answer in answers)
    with pytest.raises(UserError, match="no such file"):
        assistant.generate(None, "Who?", images=[files / "none.png"])


def test_sample_whose_pictures_exceed_the_limit_is_refused(files, rule):
    sample = mixed(files)
    held = sum(rows.nbytes for rows in rule.lay_out(sample).read_patches()[0])
    limited = [
        dataclasses.replace(rule, limits=Limits(held_gib=size / 2**30)) for size in (held, held - 1)
    ]
    assert limited[0].lay_out(sample).tokens.size
    with pytest.raises(MediaError, match=r"its 2 videos and images take .* GiB after resizing"):
        limited[1].lay_out(sample)
