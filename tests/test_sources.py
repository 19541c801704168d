"""The message format of the release, and folders of frames as videos."""

import dataclasses

import numpy as np
import pytest

from data_pipelines import sources
from data_pipelines.media_error import MediaError
from tests.annotations import ANSWER, data_set, frames_of, parse, rendered, video_messages


def test_pretraining_text_bears_loss_except_vision_tokens(rule, samples):
    video = samples[0].messages[0]["content"][0]
    messages = [
        {
            "role": "pretrain",
            "content": [video, {"type": "text", "text": "See <VIDEO_CONTEXT> a cat."}],
        }
    ]
    sample = dataclasses.replace(parse(messages), videos=samples[0].videos)
    layout = rule.lay_out(sample)
    tokenizer = rule.tokenizer
    trained = tokenizer.decode(layout.tokens[layout.trained], skip_special=False)
    assert trained.startswith("See <") and trained.endswith(" a cat.<|im_end|>")
    assert "<|v" not in trained and "seconds>" in trained
    assert "<|im_start|>" not in tokenizer.decode(layout.tokens, skip_special=False)


def test_pretraining_message_must_be_the_only_one(tmp_path):
    turn = {"role": "pretrain", "content": "A cat."}
    assert sources.read_samples(data_set(tmp_path, {"messages": [turn]}))
    with pytest.raises(sources.AnnotationError, match="pretrain stands alone"):
        sources.read_samples(data_set(tmp_path, {"messages": [turn, ANSWER]}))


def test_thinking_is_kept_only_after_the_last_question(rule):
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1", "thinking": "First."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": [{"type": "text", "text": "2"}], "thinking": "Second."},
    ]
    text = rendered(rule, parse(turns))
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert "First." not in text
    assert "assistant\n<think>\nSecond.\n</think>\n\n2<|im_end|>" in text


def test_conversation_timestamps_follow_their_video(rule, samples):
    text = {"type": "text", "text": "<VIDEO_CONTEXT>What?", "conversation_timestamps": [3, 7.25]}
    sample = dataclasses.replace(
        parse([{"role": "user", "content": [video_messages()[0]["content"][0], text]}, ANSWER]),
        videos=samples[0].videos,
    )
    assert "<|vision_end|><3.0-7.2 seconds>What?" in rendered(rule, sample)


def test_openai_tool_calls_are_converted(rule):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    turns = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "x"},
        {"role": "tool", "content": "done", "tool_call_id": "1"},
        ANSWER,
    ]
    assert '{"name": "f", "arguments": {"a": 1}}' in rendered(rule, parse(turns))


@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}, {"content": []}])
@pytest.mark.parametrize("arguments", [{"arguments": "{}"}, {"arguments": ""}, {}])
def test_openai_tool_calls_need_no_content_or_arguments(rule, content, arguments):
    call = {"id": "1", "type": "function", "function": {"name": "f", **arguments}}
    turns = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", **content, "tool_calls": [call]},
        {"role": "tool", "content": "done", "tool_call_id": "1"},
        ANSWER,
    ]
    text = rendered(rule, parse(turns))
    assert '<|im_start|>assistant\n<tool_call>\n{"name": "f", "arguments": {}}' in text


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": None},
        {"role": "tool"},
    ],
)
def test_content_is_needed_without_tool_calls(turn):
    with pytest.raises(sources.AnnotationError, match="content"):
        parse([{"role": "user", "content": "Go."}, turn])


@pytest.mark.parametrize("arguments", ["{", "[" * 5000, '{"a": "\\ud800"}', '{"a": NaN}', "5"])
def test_tool_call_arguments_that_are_no_json_object_are_a_fault(tmp_path, arguments):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    turns = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    [fault] = sources.read(data_set(tmp_path, {"messages": turns})).faults
    assert "tool call" in fault.sentence and fault.sentence.isprintable()


@pytest.mark.parametrize(
    ("described", "indices", "times"),
    [
        # A rate that fps = 1 divides is resampled.
        ({"processed_video_length": 7, "processed_fps": 2.0}, [0, 3, 6, 6], [0.75, 3.0]),
        # A rate that it does not divide gives all frames, up to rand_video_max_frames.
        ({"processed_video_length": 7, "processed_fps": 0.5}, range(7), [1.0, 5.0, 9.0, 12.0]),
        # Annotated times of frames appear in the text.
        (
            {
                "processed_video_length": 7,
                "processed_fps": 0.5,
                "frames_timestamp": [10, 11, 12, 13, 14, 15, 16],
            },
            range(7),
            [10.5, 12.5, 14.5, 16.0],
        ),
        ({"origin_video_length": 7, "origin_fps": 1.0}, range(7), [0.5, 2.5, 4.5, 6.0]),
        # Without a frame rate, the text has no times.
        ({}, range(7), None),
    ],
)
def test_frame_folder_is_read_as_a_video(tmp_path, rule, described, indices, times):
    frames_of(tmp_path / "clip")
    for size in ({"image_wh": [[64, 32]]}, {}):
        [video] = parse(video_messages(url="clip", **described, **size), tmp_path).videos
        clip = rule.video_clip(video)
        assert clip.indices.tolist()[: len(indices)] == list(indices)
        if times is None:
            assert clip.text.startswith("<|vision_start|>")
        else:
            np.testing.assert_allclose(clip.times, times)
            assert clip.text.startswith(f"<{times[0]:.1f} seconds><|vision_start|>")
        red = clip.read().mean(axis=(1, 2))[:, 0]
        np.testing.assert_allclose(red, 30 * (clip.indices + 1), atol=6)


def test_long_frame_folder_is_sampled_to_the_maximum(tmp_path, rule):
    frames_of(tmp_path / "clip")
    [video] = parse(video_messages(url="clip"), tmp_path).videos
    clip = dataclasses.replace(rule, rand_max_frames=4).video_clip(video)
    assert clip.indices.tolist() == [0, 2, 4, 6]


def test_frame_folder_with_a_gap_is_rejected(tmp_path, rule):
    (frames_of(tmp_path / "clip") / "00000003.jpg").unlink()
    [video] = parse(video_messages(url="clip"), tmp_path).videos
    with pytest.raises(MediaError, match=r"clip: no 00000003.jpg"):
        rule.video_clip(video)
