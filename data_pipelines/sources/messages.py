"""The message format: that of InternVideo3's release, plus the keys that an agent needs.

    {"id": ..., "messages": [
        {"role": "user", "content": [
            {"type": "video_url", "video_url": {"url": "a.mp4", ...}},
            {"type": "text", "text": "<VIDEO_CONTEXT>What happens?"}]},
        {"role": "assistant", "content": "..."}],
     "truths": [...], "tools": [...]}

`media_items` describes video and image items. The n-th placeholder of a kind, <VIDEO_CONTEXT> or
<IMG_CONTEXT>, stands for the n-th item of that kind.

    role         system (or developer), user, assistant, tool; or pretrain, for a single message
                 that bears loss on all of its text
    loss         true or false: whether the message bears loss; by default assistant and pretrain
                 messages do. Numbers are refused
    thinking     of an assistant message; written as <think> before the text in turns after the
                 last question, omitted in earlier turns (XTuner, data_proto/messages/chat.py)
    tool_calls   of an assistant message, [{"name", "arguments": {}}] or in OpenAI's form; its
                 content may then be null or absent
    conversation_timestamps  of a text item, [start, end] or a list of them; written as
                 <start-end seconds> after each video placeholder of the item
    name, meta, tool_call_id, reasoning_content  are accepted and ignored

A prepared sample may also have `overrides`, those of its data set when it was prepared. Overrides
in the mixture take precedence.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from data_pipelines.annotation_error import MISSING, SPAN, TYPE, UNKNOWN, AnnotationError
from data_pipelines.formats.columns import is_span
from data_pipelines.sources import json_values, media_items
from data_pipelines.sources.overrides import (
    OVERRIDE_KEYS,
    Overrides,
    merge_overrides,
    parse_overrides,
)
from data_pipelines.sources.sample import Sample
from ivx.text import thinking, tool_calls, truths
from ivx.text.chat_template import ROLES, VIDEO_PLACEHOLDER

_SAMPLE_KEYS = {"id", "messages", "truths", "tools", "overrides"}
_TEXT_KEYS = ("role", "thinking", "name", "tool_call_id", "reasoning_content")
_IGNORED_KEYS = ("name", "meta", "tool_call_id", "reasoning_content")
_MESSAGE_KEYS = {"role", "thinking", "content", "loss", "tool_calls", *_IGNORED_KEYS}
# Annotated spans are often rounded up to whole seconds.
_SLACK_SECONDS = 1.0


def parse_sample(
    record: Any,
    where: str,
    media_root: pathlib.Path | epath.Path,
    stored: Mapping[str, str] | None = None,
    overrides: Overrides | None = None,
) -> Sample:
    """Parses an annotation.

    Args:
      record: as above.
      where: file:line of the annotation, for messages; also the id of a sample without one.
      media_root: folder of the media.
      stored: addresses of media that are stored with the annotation, by url.
      overrides: layout settings of the data set.

    Raises:
      AnnotationError: the annotation is malformed.
    """
    messages = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(messages, list) or not all(isinstance(part, dict) for part in messages):
        missing = isinstance(record, dict) and "messages" not in record
        raise AnnotationError(
            f"{where}: expected an object with a list of messages", MISSING if missing else TYPE
        )
    unknown = set(record) - _SAMPLE_KEYS
    if unknown:
        raise AnnotationError(
            f"{where}: unknown keys {sorted(unknown)}; allowed are {sorted(_SAMPLE_KEYS)}", UNKNOWN
        )
    sample_id = record.get("id")
    if isinstance(sample_id, bool) or not isinstance(sample_id, (str, int, type(None))):
        raise AnnotationError(f"{where}: the id {sample_id!r} must be text or an integer", TYPE)
    messages = [_message(message, where) for message in messages]
    _check_tools(messages, record, where)
    messages = _with_thinking(messages) if messages else []
    if not messages:
        raise AnnotationError(f"{where}: the list of messages is empty", MISSING)
    items = [
        item
        for message in messages
        if isinstance(message.get("content"), list)
        for item in message["content"]
        if isinstance(item, dict)
    ]
    settings = record.get("overrides", {})
    if not isinstance(settings, dict) or set(settings) - set(OVERRIDE_KEYS):
        raise AnnotationError(
            f"{where}: overrides must be an object with keys among {', '.join(OVERRIDE_KEYS)}, not"
            f" {settings!r}",
            TYPE,
        )
    videos, images = (
        tuple(
            parse(item, where, media_root, stored or {}) for item in items if item["type"] == kind
        )
        for kind, parse in (("video_url", media_items.video), ("image_url", media_items.image))
    )
    sample = Sample(
        where if sample_id is None else str(sample_id),
        tuple(messages),
        videos,
        _truths(record, messages, where),
        tuple(record.get("tools", [])),
        images,
        merge_overrides(overrides, parse_overrides(settings, where)),
        where,
    )
    span_error = truth_span_error(sample)
    if span_error:
        raise AnnotationError(f"{where}: {span_error}", SPAN)
    return sample


def truth_span_error(sample: Sample) -> str | None:
    """What is wrong with the truth spans of a sample; None if nothing is.

    Spans are compared with the length of the video if the sample has one video of known length.
    No file is opened.
    """
    for truth in sample.truths:
        spans = truth.get("spans") or []
        if not isinstance(spans, list):
            return f"the spans {spans!r} of a truth must be a list of [start, end] in seconds"
        span = truth.get("span")
        for one in (*spans, *([] if span is None else [span])):
            if not is_span(one) or not 0 <= one[0] <= one[1]:
                return f"the span {one!r} of a truth must be [start, end] in seconds"
        if span is None:
            continue
        info = sample.videos[0].info if len(sample.videos) == 1 else None
        if info and not sample.videos[0].times:
            seconds = info.num_frames / info.rate
            if span[0] >= seconds or span[1] > seconds + _SLACK_SECONDS:
                return (
                    f"the truth span {span[0]:g} to {span[1]:g} lies outside a video of"
                    f" {seconds:g} seconds"
                )
    return None


def _message(message: dict, where: str) -> dict:
    """Checks a message, and converts it to the form that the template renders."""
    role = message.get("role")
    unknown = set(message) - _MESSAGE_KEYS
    if message.get("tool_calls") and message.get("content") is None:
        message = message | {"content": ""}
    if unknown or "role" not in message or "content" not in message:
        raise AnnotationError(
            f"{where}: a message with the keys {sorted(message)}; expected role, content and"
            f" optionally {', '.join(sorted(_MESSAGE_KEYS - {'role', 'content'}))}",
            UNKNOWN if unknown else MISSING,
        )
    wrong = [key for key in _TEXT_KEYS if not isinstance(message.get(key), (str, type(None)))]
    if wrong or not isinstance(message.get("loss"), (bool, type(None))):
        raise AnnotationError(
            f"{where}: a message whose {', '.join(wrong) or 'loss'} is"
            f" {message.get(wrong[0] if wrong else 'loss')!r}; loss must be true or false, the"
            " other keys text",
            TYPE,
        )
    if role not in (*ROLES, "developer"):
        raise AnnotationError(
            f"{where}: the role {str(role)[:80]!r} is not one of {', '.join((*ROLES, 'developer'))}"
        )
    if not isinstance(message["content"], (str, list)):
        raise AnnotationError(
            f"{where}: the content {str(message['content'])[:80]!r} must be text or a list of"
            " items",
            TYPE,
        )
    for key in ("thinking", "tool_calls"):
        if message.get(key) and role != "assistant":
            raise AnnotationError(
                f"{where}: a message of the role {role!r} has {key}; only an assistant"
                f" {'thinks' if key == 'thinking' else 'calls'}"
            )
    message = {key: value for key, value in message.items() if key not in _IGNORED_KEYS}
    message["role"] = "system" if role == "developer" else role
    if isinstance(message["content"], list):
        message["content"] = [_item(item, role, where) for item in message["content"]]
    if isinstance(message.get("tool_calls"), list):
        message["tool_calls"] = [_tool_call(call, where) for call in message["tool_calls"]]
    if role in ("assistant", "pretrain") and not message.get("tool_calls") and _is_blank(message):
        raise AnnotationError(
            f"{where}: a message of the role {role!r} is blank; remove it, or give it words",
            MISSING,
        )
    return message


def _is_blank(message: dict) -> bool:
    """Whether a message has no words beside its thought."""
    content = message["content"]
    texts = [content] if isinstance(content, str) else [item.get("text", "") for item in content]
    text = "".join(texts)
    return not (thinking.separate(text)[1] if message["role"] == "assistant" else text.strip())


def _item(item: Any, role: Any, where: str) -> dict:
    """Checks the type of an item, and writes conversation_timestamps into its text."""
    if not isinstance(item, dict) or item.get("type") not in ("text", "video_url", "image_url"):
        raise AnnotationError(
            f"{where}: the item {str(item)[:100]} must be an object of type text, video_url or"
            " image_url",
            TYPE,
        )
    if item["type"] != "text":
        return item
    if set(item) - {"type", "text", "conversation_timestamps"} or not isinstance(
        item.get("text"), str
    ):
        raise AnnotationError(
            f'{where}: a text item needs {{"type": "text", "text": ...}} and optionally'
            f" conversation_timestamps, got {str(item)[:100]}",
            TYPE if "text" in item else MISSING,
        )
    spans = item.get("conversation_timestamps")
    if spans is None:
        return {"type": "text", "text": item["text"]}
    before, *parts = item["text"].split(VIDEO_PLACEHOLDER)
    spans = spans if isinstance(spans, list) and spans and isinstance(spans[0], list) else [spans]
    if (
        role not in ("user", "pretrain", "tool")
        or len(spans) != len(parts)
        or not all(map(is_span, spans))
    ):
        raise AnnotationError(
            f"{where}: conversation_timestamps {item['conversation_timestamps']!r} must be"
            f" [start, end] in seconds for each of the {len(parts)} {VIDEO_PLACEHOLDER} of its item"
        )
    timed = [
        f"{VIDEO_PLACEHOLDER}<{start:.1f}-{end:.1f} seconds>{part}"
        for (start, end), part in zip(spans, parts, strict=True)
    ]
    return {"type": "text", "text": before + "".join(timed)}


def _tool_call(call: Any, where: str) -> Any:
    """Converts a call from OpenAI's form, {"function": {"name", "arguments": JSON text}}."""
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        return call
    function = dict(call["function"])
    # A tool without parameters is called with an empty text or none.
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = json_values.parse(arguments, f"{where}: the arguments of a tool call")
    return function | {"arguments": arguments}


def _with_thinking(messages: Sequence[dict]) -> list[dict]:
    """Writes `thinking` into the text of turns after the last question; drops it elsewhere."""
    last_question = thinking.last_question([message["role"] for message in messages])
    result = []
    for index, message in enumerate(messages):
        thought = message.pop("thinking", None)
        if thought and (index > last_question or index == len(messages) - 1):
            text = f"{thinking.THINK}\n{thought.strip()}\n{thinking.THINK_END}\n\n"
            content = message["content"]
            message["content"] = (
                text + content
                if isinstance(content, str)
                else [{"type": "text", "text": text}, *content]
            )
        result.append(message)
    return result


def _check_tools(messages: Sequence[dict], record: dict, where: str) -> None:
    try:
        tool_calls.check_tools(record.get("tools", []))
        for message in messages:
            if message.get("tool_calls") is not None:
                tool_calls.check_calls(message["tool_calls"])
    except tool_calls.ToolCallError as error:
        raise AnnotationError(f"{where}: {error}", TYPE) from error


def _truths(record: dict, messages: Sequence[dict], where: str) -> tuple[dict, ...]:
    """The truths, checked by format: one for each question, or none."""
    listed = record.get("truths", [])
    if not isinstance(listed, list):
        raise AnnotationError(f"{where}: truths must be a list of objects, not {listed!r}", TYPE)
    questions = sum(message["role"] == "user" for message in messages)
    if listed and len(listed) != questions:
        raise AnnotationError(
            f"{where}: {len(listed)} truths for {questions} questions, that is messages of the role"
            " user; give one for each, or none"
        )
    try:
        return tuple(map(truths.check, listed))
    except truths.TruthError as error:
        raise AnnotationError(f"{where}: {error}") from error
