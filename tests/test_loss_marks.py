"""Which tokens bear loss: the key `loss` of a message, as in the release."""

import dataclasses

import pytest

from data_pipelines import annotation_error, sources
from tests.annotations import ANSWER, data_set, parse, video_messages

SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "Sure?"}
TOOL = {"role": "tool", "content": "red"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"name": "see", "arguments": {}}],
    "loss": False,
}


def trained_text(rule, messages: list[dict], **changes) -> str:
    """The text of all tokens that bear loss."""
    layout = rule.lay_out(dataclasses.replace(parse(messages), **changes))
    return rule.tokenizer.decode(layout.tokens[layout.trained], skip_special=False)


def marked(message: dict, loss: bool | None) -> dict:
    return message | {"loss": loss}


@pytest.mark.parametrize(
    ("messages", "trained"),
    [
        ([SYSTEM, ASK, ANSWER], "Yes.<|im_end|>"),
        ([marked(SYSTEM, None), marked(ASK, False), marked(ANSWER, True)], "Yes.<|im_end|>"),
        ([ASK, marked(ANSWER, False), ASK, ANSWER], "Yes.<|im_end|>"),
        # A turn is trained as the release renders it: a user's turn opens that of the assistant.
        (
            [SYSTEM, marked(ASK, True), marked(ANSWER, False)],
            "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            [ASK, marked(ANSWER, False), marked(SYSTEM, True), ASK, marked(ANSWER, False)],
            "<|im_start|>system\nBe brief.<|im_end|>\n",
        ),
        (
            [ASK, CALL, marked(TOOL, True), marked(ANSWER, False)],
            "<|im_start|>user\n<tool_response>\nred\n</tool_response><|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        # Two results share a turn; only the marked one is trained.
        (
            [ASK, CALL, marked(TOOL, True), TOOL, marked(ANSWER, False)],
            "<|im_start|>user\n<tool_response>\nred\n</tool_response>",
        ),
    ],
)
def test_loss_trains_exactly_the_marked_turns(rule, messages, trained):
    assert trained_text(rule, messages) == trained


def test_trained_question_excludes_vision_tokens(rule, samples):
    question, answer = video_messages("See <VIDEO_CONTEXT> now?")
    messages = [marked(question, True), marked(answer, False)]
    text = trained_text(rule, messages, videos=samples[0].videos)
    assert text.startswith("<|im_start|>user\nSee <") and " now?<|im_end|>\n" in text
    assert "seconds>" in text and "<|v" not in text


def test_loss_changes_no_token(rule, samples):
    question, answer = video_messages("See <VIDEO_CONTEXT> now?")
    with_loss, without = (
        rule.lay_out(
            dataclasses.replace(
                parse([SYSTEM, marked(question, loss), answer, marked(ASK, loss), answer]),
                videos=samples[0].videos,
            )
        )
        for loss in (True, None)
    )
    assert with_loss.tokens.tolist() == without.tokens.tolist()
    assert (with_loss.trained >= without.trained).all()


@pytest.mark.parametrize("loss", [0, 1, 0.0, 1.0, "false", [], {}])
def test_loss_that_is_no_boolean_is_a_fault(tmp_path, loss):
    line = {"id": "a", "messages": [ASK, marked(ANSWER, loss)]}
    [fault] = sources.read(data_set(tmp_path, line)).faults
    assert fault.cause == annotation_error.TYPE
    assert "loss must be true or false" in fault.sentence and fault.where.endswith(":1")


@pytest.mark.parametrize(
    "answer",
    [
        {"content": ""},
        {"content": " \n"},
        {"content": []},
        {"content": [{"type": "text", "text": " "}]},
        {"content": "<think>Hm.</think>\n"},
        {"content": "", "thinking": "Hm."},
        {"content": "", "loss": False},
        {"content": "", "tool_calls": []},
    ],
)
def test_blank_answer_is_a_fault(tmp_path, answer):
    line = {"id": "a", "messages": [ASK, {"role": "assistant", **answer}]}
    [fault] = sources.read(data_set(tmp_path, line)).faults
    assert "'assistant' is blank" in fault.sentence
    pretrain = {"id": "b", "messages": [{"role": "pretrain", "content": " "}]}
    assert "'pretrain' is blank" in sources.read(data_set(tmp_path, pretrain)).faults[0].sentence
