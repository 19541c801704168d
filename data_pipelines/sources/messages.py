"""The message format: that of InternVideo3's release, and what an agent needs beside it.

    {"id": ..., "messages": [
        {"role": "user", "content": [
            {"type": "video_url", "video_url": {"url": "a.mp4", ...}},
            {"type": "text", "text": "<VIDEO_CONTEXT>What happens?"}]},
        {"role": "assistant", "content": "..."}],
     "truths": [...], "tools": [...]}

Items that show something are those of `media_items`. The first placeholder of a kind, which is
<VIDEO_CONTEXT> or <IMG_CONTEXT>, stands for the first item of that kind, and so on.

    role         system (or developer), user, assistant, tool; or pretrain, a single message that is
                 trained on from end to end
    loss         false leaves an assistant out of the loss
    thinking     of an assistant, written as <think> before its text in turns after the last
                 question, left out of earlier ones (XTuner, data_proto/messages/chat.py)
    tool_calls   of an assistant, [{"name", "arguments": {}}] or as of OpenAI
    conversation_timestamps  of an item of text, [start, end] or a list of them: written as
                 <start-end seconds> behind each video of the item
    name, meta, tool_call_id, reasoning_content  are allowed and mean nothing

Beside messages, truths and tools, `overrides` may hold those of a data set: prepared samples keep
what held for them. Where the mixture overrides the same, it counts.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence

from data_pipelines.annotation_error import MISSING, SPAN, TYPE, UNKNOWN, AnnotationError
from data_pipelines.formats.columns import is_number
from data_pipelines.sources import media_items, overriding
from data_pipelines.sources.sample import Overrides, Sample
from ivx.text import thinking, tool_calls
from ivx.text.chat_template import VIDEO_PLACEHOLDER

_SAMPLE_KEYS = {"id", "messages", "truths", "tools", "overrides"}
_TEXTS = ("role", "thinking", "name", "tool_call_id", "reasoning_content")
_MESSAGE_KEYS = {*_TEXTS, "content", "loss", "meta", "tool_calls"}
# Annotated spans are often rounded up to whole seconds.
_SLACK_SECONDS = 1.0


def sample(
    record: dict,
    where: str,
    media_root: pathlib.Path,
    stored: Mapping[str, str] | None = None,
    overrides: Overrides | None = None,
) -> Sample:
    """A sample from its annotation.

    Args:
      record: as above.
      where: its place, for messages.
      media_root: folder of its media.
      stored: addresses of media that came with the record, by url.
      overrides: of its data set.

    Raises:
      AnnotationError: it is not of the form above.
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
    known = record.get("id")
    if isinstance(known, bool) or not isinstance(known, (str, int, type(None))):
        raise AnnotationError(f"{where}: the id {known!r} must be text or a whole number", TYPE)
    messages = [_message(message, where) for message in messages]
    _check_tools(messages, record, where)
    messages = _with_thoughts(messages) if messages else []
    truths = record.get("truths", [])
    if not isinstance(truths, list) or not all(isinstance(truth, dict) for truth in truths):
        raise AnnotationError(f"{where}: truths must be a list of objects, not {truths!r}", TYPE)
    if not messages:
        raise AnnotationError(f"{where}: the list of messages is empty", MISSING)
    items = [
        item
        for message in messages
        if isinstance(message.get("content"), list)
        for item in message["content"]
        if isinstance(item, dict)
    ]
    own = record.get("overrides", {})
    if not isinstance(own, dict) or set(own) - set(overriding.NAMES):
        raise AnnotationError(
            f"{where}: overrides are an object of {', '.join(overriding.NAMES)}, not {own!r}", TYPE
        )
    videos, images = (
        tuple(read(item, where, media_root, stored or {}) for item in items if item["type"] == kind)
        for kind, read in (("video_url", media_items.video), ("image_url", media_items.image))
    )
    found = Sample(
        where if known is None else str(known),
        tuple(messages),
        videos,
        tuple(truths),
        tuple(record.get("tools", [])),
        images,
        overriding.joined(overrides, overriding.read(own, where)),
        where,
    )
    outside = span_outside(found)
    if outside:
        raise AnnotationError(f"{where}: {outside}", SPAN)
    return found


def span_outside(found: Sample) -> str | None:
    """What is wrong with the true spans of a sample of one video of known length; None if nothing.

    A video whose length is not known is not opened.
    """
    for truth in found.truths:
        span = truth.get("span")
        if span is None:
            continue
        if (
            not isinstance(span, list)
            or len(span) != 2
            or not all(is_number(second) for second in span)
            or not 0 <= span[0] <= span[1]
        ):
            return f"the span {span!r} of a truth must be [start, end] in seconds"
        info = found.videos[0].info if len(found.videos) == 1 else None
        if info and not found.videos[0].times:
            seconds = info.num_frames / info.rate
            if span[0] >= seconds or span[1] > seconds + _SLACK_SECONDS:
                return (
                    f"the true span {span[0]:g} to {span[1]:g} lies outside of a video of"
                    f" {seconds:g} seconds"
                )
    return None


def _message(message: dict, where: str) -> dict:
    """A message checked, and written as the template knows it."""
    role = message.get("role")
    unknown = set(message) - _MESSAGE_KEYS
    if unknown or "role" not in message or "content" not in message:
        raise AnnotationError(
            f"{where}: a message with the keys {sorted(message)}; expected role, content and, if"
            f" wanted, {', '.join(sorted(_MESSAGE_KEYS - {'role', 'content'}))}",
            UNKNOWN if unknown else MISSING,
        )
    wrong = [key for key in _TEXTS if not isinstance(message.get(key) or "", str)]
    if wrong or message.get("loss") not in (None, True, False):
        raise AnnotationError(
            f"{where}: a message whose {', '.join(wrong) or 'loss'} is"
            f" {message.get(wrong[0] if wrong else 'loss')!r}; loss is true or false, the other"
            " keys are text",
            TYPE,
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
                f"{where}: {key} in a message of the role {role!r}; only an assistant"
                f" {'thinks' if key == 'thinking' else 'calls'}"
            )
    message = dict(message) | {"role": "system" if role == "developer" else role}
    if isinstance(message["content"], list):
        message["content"] = [_item(item, role, where) for item in message["content"]]
    if isinstance(message.get("tool_calls"), list):
        message["tool_calls"] = [_call(call, where) for call in message["tool_calls"]]
    return message


def _item(item, role: str, where: str) -> dict:
    """An item whose type is known, conversation_timestamps written into its text."""
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
            f'{where}: an item of text needs {{"type": "text", "text": ...}} and, if wanted,'
            f" conversation_timestamps; got {str(item)[:100]}",
            TYPE if "text" in item else MISSING,
        )
    spans = item.get("conversation_timestamps")
    if spans is None:
        return {"type": "text", "text": item["text"]}
    before, *parts = item["text"].split(VIDEO_PLACEHOLDER)
    spans = spans if spans and isinstance(spans[0], list) else [spans]
    if (
        role not in ("user", "pretrain", "tool")
        or len(spans) != len(parts)
        or not all(
            isinstance(span, list) and len(span) == 2 and all(map(is_number, span))
            for span in spans
        )
    ):
        raise AnnotationError(
            f"{where}: conversation_timestamps {item['conversation_timestamps']!r} must be"
            f" [start, end] in seconds for each of the {len(parts)} {VIDEO_PLACEHOLDER} of its item"
        )
    told = [
        f"{VIDEO_PLACEHOLDER}<{start:.1f}-{end:.1f} seconds>{part}"
        for (start, end), part in zip(spans, parts, strict=True)
    ]
    return {"type": "text", "text": before + "".join(told)}


def _call(call, where: str) -> dict:
    """A call of OpenAI's form, {"function": {"name", "arguments": JSON text}}, in ours."""
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        return call
    function = dict(call["function"])
    if isinstance(function.get("arguments"), str):
        try:
            function["arguments"] = json.loads(function["arguments"])
        except ValueError as error:
            raise AnnotationError(
                f"{where}: the arguments of a tool call are not JSON ({error})", TYPE
            ) from error
    return function


def _with_thoughts(messages: Sequence[dict]) -> list[dict]:
    """`thinking` written into the text of the turns after the last question, else left out."""
    asked = thinking.last_question([message["role"] for message in messages])
    found = []
    for number, message in enumerate(messages):
        thought = message.pop("thinking", None)
        if thought and (number > asked or number == len(messages) - 1):
            text = f"{thinking.THINK}\n{thought.strip()}\n{thinking.THINK_END}\n\n"
            content = message["content"]
            message["content"] = (
                text + content
                if isinstance(content, str)
                else [{"type": "text", "text": text}, *content]
            )
        found.append(message)
    return found


def _check_tools(messages: Sequence[dict], record: dict, where: str) -> None:
    try:
        tool_calls.check_tools(record.get("tools", []))
        for message in messages:
            if message.get("tool_calls") is not None:
                tool_calls.check_calls(message["tool_calls"])
    except tool_calls.ToolCallError as error:
        raise AnnotationError(f"{where}: {error}", TYPE) from error
