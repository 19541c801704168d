"""The chat template: messages to pieces of text, each marked as trained on or not.

    <|im_start|>system\\n{..}<|im_end|>\\n
    <|im_start|>user\\n{..}<|im_end|>\\n
    <|im_start|>assistant\\n{..}<|im_end|>\\n
    <|im_start|>user\\n<tool_response>\\n{..}\\n</tool_response><|im_end|>\\n    (role tool)
    {..}<|im_end|>                             (role pretrain, a message by itself)

The loss covers the assistant's text and its <|im_end|>; for pretraining, everything but vision
tokens. `"loss": false` excludes a message. `"loss": true` on another message covers all that it
renders to but vision tokens, and after a user or tool also the opening of the assistant's turn, as
in the release (XTuner, data_proto/messages/chat.py).

There is no default system message. Tool schemas are appended to the system message. Consecutive
tool results share one turn. The text of a user or tool marks a video by the placeholder
<VIDEO_CONTEXT>, which is replaced by the video's vision tokens, each slice after its time. The
placeholder of an image is <IMG_CONTEXT>; it has no time:

    <0.2 seconds><|vision_start|><|video_pad|>...<|vision_end|><1.2 seconds><|vision_start|>...
    <|vision_start|><|image_pad|>...<|vision_end|>

Text of a user or tool cannot forge a tool result, a call or a thought: there, <tool_response>,
<tool_call>, <think> and their ends become plain pieces, tokenized like any other characters.
Reserved <|...|> tokens are rejected in every role.

Thoughts are part of the assistant's text, inside <think>. `enable_thinking` has the meaning it has
for Qwen models:

    None   Instruct models: no thought is opened, none is removed
    True   Thinking models: the open turn begins with <think>\\n
    False  Qwen3 without thoughts: the open turn begins with <think>\\n\\n</think>\\n\\n

With True and False, thoughts of turns before the user's last question are removed, and later ones
get the line breaks of Qwen3.

Training, evaluation and chat all use `render`.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ivx.text import special_tokens, thinking, tool_calls
from ivx.text.printable import misencoded

VIDEO_PLACEHOLDER = "<VIDEO_CONTEXT>"
IMAGE_PLACEHOLDER = "<IMG_CONTEXT>"
ROLES = ("system", "user", "assistant", "tool", "pretrain")

_RESERVED = re.compile(
    "|".join(re.escape(token) for token in special_tokens.ALL if token.startswith("<|"))
)
# Media of each placeholder: singular, plural.
_MEDIA = {VIDEO_PLACEHOLDER: ("a video", "videos"), IMAGE_PLACEHOLDER: ("an image", "images")}
_PLACEHOLDERS = re.compile("|".join(_MEDIA))
# A group, so that `split` keeps the separators.
_VISION = re.compile(
    f"((?:{re.escape(special_tokens.VISION_START)}|{re.escape(special_tokens.VISION_END)}"
    f"|{re.escape(special_tokens.VIDEO_PAD)}|{re.escape(special_tokens.IMAGE_PAD)})+)"
)
# Roles whose text may contain placeholders.
_MEDIA_ROLES = ("user", "tool", "pretrain")
# A group, so that `split` keeps the tags.
_MARKUP = re.compile(f"({'|'.join(special_tokens.MARKUP)})")
_UNSAFE = re.compile(
    f"{_RESERVED.pattern}|{tool_calls.RESPONSE}|{tool_calls.RESPONSE_END}|{_PLACEHOLDERS.pattern}"
)


class TemplateError(ValueError):
    """Invalid messages; the error names the message and the reason."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """A run of text that is tokenized separately.

    Attributes:
      text: the text.
      trained: whether its tokens are included in the loss.
      plain: whether special tokens in it are tokenized like any other characters.
    """

    text: str
    trained: bool = False
    plain: bool = False


def video_text(slice_times: Iterable[float | None], tokens_per_slice: int) -> str:
    """The vision tokens of a video: its slices, each after its time in seconds if known."""
    pads = _between(special_tokens.VIDEO_PAD * tokens_per_slice)
    return "".join(pads if time is None else f"<{time:.1f} seconds>{pads}" for time in slice_times)


def image_text(tokens: int) -> str:
    """The vision tokens of an image."""
    return _between(special_tokens.IMAGE_PAD * tokens)


def _between(pads: str) -> str:
    return special_tokens.VISION_START + pads + special_tokens.VISION_END


def placeholders(messages: Sequence[dict]) -> list[str]:
    """The placeholders that `render` replaces, in order."""
    return [
        placeholder
        for index, message in enumerate(messages)
        if message.get("role") in _MEDIA_ROLES
        for placeholder in _PLACEHOLDERS.findall(message_text(message, index))
    ]


def without_placeholders(text: str) -> str:
    """The text without placeholders."""
    return _PLACEHOLDERS.sub("", text)


def render(
    messages: Sequence[dict],
    videos: Sequence[str],
    generate: bool = False,
    tools: Sequence[dict] = (),
    enable_thinking: bool | None = None,
    images: Sequence[str] = (),
) -> list[Piece]:
    """Renders a conversation as pieces of text.

    Args:
      messages: [{"role": ..., "content": str or [items], "loss": bool (true by default for
        assistant and pretrain), "tool_calls": [{"name", "arguments"}] (assistant, written after
        the text)}].
      videos: the text of each video, in the order of their placeholders.
      generate: whether to end with an open assistant turn.
      tools: schemas of the available tools.
      enable_thinking: whether the open turn begins with a thought, see above.
      images: the text of each image, in the order of their placeholders.

    Raises:
      TemplateError: a role or item is unknown, placeholders do not match the media, tools or calls
        are malformed, or a text contains a reserved <|...|> token, which would forge a turn or an
        image.
    """
    pending = {VIDEO_PLACEHOLDER: list(videos), IMAGE_PLACEHOLDER: list(images)}
    roles = [message.get("role") if isinstance(message, dict) else message for message in messages]
    pieces = []
    last_question = thinking.last_question(roles)
    schemas = _tool_schemas(tools)
    if schemas and roles[:1] != ["system"]:
        pieces.append(Piece(f"{special_tokens.IM_START}system\n{schemas}{special_tokens.IM_END}\n"))
    for number, (role, message) in enumerate(zip(roles, messages, strict=True)):
        if role not in ROLES:
            raise TemplateError(f"message {number}: role {role!r} is not one of {', '.join(ROLES)}")
        text = message_text(message, number)
        if message.get("tool_calls") and role != "assistant":
            raise TemplateError(
                f"message {number}: tool_calls in the role {role}; an assistant calls"
            )
        if role == "pretrain":
            if len(messages) > 1 or schemas or generate:
                raise TemplateError(
                    f"message {number}: role pretrain stands alone: no other messages, no tools"
                )
            text = _with_media(text, pending, number) + special_tokens.IM_END
            pieces += _pieces(text, message.get("loss") is not False)
        elif role == "assistant":
            thought = ""
            if enable_thinking is not None:
                thought, text = thinking.split(text)
            text = _with_calls(text, message.get("tool_calls"), number)
            asked = number > 0 and roles[number - 1] in ("user", "tool")
            opens = asked and messages[number - 1].get("loss") is True
            pieces.append(Piece(f"{special_tokens.IM_START}assistant\n", opens))
            pieces.append(
                Piece(
                    (thought if number > last_question else "") + text + special_tokens.IM_END,
                    trained=message.get("loss") is not False,
                )
            )
            pieces.append(Piece("\n"))
        elif role == "tool":
            text = _with_media(text, pending, number)
            continues = roles[number - 1 : number] == ["tool"]
            ends = roles[number + 1 : number + 2] != ["tool"]
            start = "" if continues else f"{special_tokens.IM_START}user"
            end = f"{special_tokens.IM_END}\n" if ends else ""
            before, after = f"{tool_calls.RESPONSE}\n", f"\n{tool_calls.RESPONSE_END}"
            trained = message.get("loss") is True
            pieces += _untrusted(f"{start}\n{before}", text, f"{after}{end}", trained)
        elif role == "user":
            text = _with_media(text, pending, number)
            end = f"{special_tokens.IM_END}\n"
            start = f"{special_tokens.IM_START}user\n"
            pieces += _untrusted(start, text, end, message.get("loss") is True)
        else:
            if schemas and number == 0:
                text = f"{text}\n\n{schemas}"
            text = f"{special_tokens.IM_START}{role}\n{text}{special_tokens.IM_END}\n"
            pieces += _pieces(text, message.get("loss") is True)
    for placeholder, texts in pending.items():
        if texts:
            raise TemplateError(
                f"{len(texts)} {_MEDIA[placeholder][1]} have no {placeholder} in the text;"
                " write one for each"
            )
    if generate:
        opened = thinking.OPENINGS[enable_thinking]
        pieces.append(Piece(f"{special_tokens.IM_START}assistant\n{opened}"))
    return pieces


def _pieces(text: str, trained: bool) -> list[Piece]:
    """The text as pieces; vision tokens bear no loss."""
    parts = _VISION.split(text) if trained else [text]
    return [Piece(part, trained and not _VISION.fullmatch(part)) for part in parts if part]


def _untrusted(before: str, text: str, after: str, trained: bool) -> list[Piece]:
    """A turn with the text of a user or tool, whose markup becomes plain pieces."""
    parts = _MARKUP.split(text)  # every second part is a tag
    parts[0] = before + parts[0]
    parts[-1] += after
    pieces = []
    for number, part in enumerate(parts):
        pieces += [Piece(part, trained, plain=True)] if number % 2 else _pieces(part, trained)
    return pieces


def escape_tags(text: str) -> str:
    """Untrusted text with a space inserted into tags that would forge a turn, image or result."""
    return _UNSAFE.sub(lambda match: match[0].replace("<", "< ", 1), text)


def message_text(message: dict, number: int) -> str:
    """The text of a message, its items joined. Media items have no text; placeholders mark them.

    Raises:
      TemplateError: the content has an unknown type or contains reserved tokens.
    """
    content = message.get("content")
    items = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(items, list):
        raise TemplateError(
            f"message {number}: content must be a string or a list of items, not {content!r}"
        )
    texts = []
    for item in items:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "text" and set(item) == {"type", "text"} and isinstance(item["text"], str):
            texts.append(item["text"])
        elif kind not in ("video_url", "image_url"):
            raise TemplateError(
                f"message {number}: an item of type {kind!r}; expected text, video_url or image_url"
            )
    text = "".join(texts)
    if not text.isprintable() and (reason := misencoded(text)):
        raise TemplateError(f"message {number}: the text holds {reason}; remove it")
    forged = _RESERVED.search(text)
    if forged:
        raise TemplateError(
            f"message {number}: the text contains the reserved token {forged[0]}; remove it"
        )
    return text


def _tool_schemas(tools: Any) -> str:
    """The tool schemas in the system message; empty without tools."""
    if not tools:
        return ""
    try:
        text = tool_calls.offer(tools)
    except tool_calls.ToolCallError as error:
        raise TemplateError(str(error)) from error
    forged = _RESERVED.search(text)
    if forged:
        raise TemplateError(f"the tools contain the reserved token {forged[0]}; remove it")
    return text


def _with_calls(text: str, calls: Any, number: int) -> str:
    """The text of an assistant with its calls, one per line."""
    if not calls:
        return text
    try:
        tool_calls.check_calls(calls)
    except tool_calls.ToolCallError as error:
        raise TemplateError(f"message {number}: {error}") from error
    rendered = [tool_calls.render_call(call["name"], call["arguments"]) for call in calls]
    forged = _RESERVED.search("".join(rendered))
    if forged:
        raise TemplateError(
            f"message {number}: a tool call contains the reserved token {forged[0]}; remove it"
        )
    return "\n".join([text, *rendered] if text else rendered)


def _with_media(text: str, pending: dict[str, list[str]], number: int) -> str:
    """Replaces each placeholder by the next of its kind in `pending`, and removes that one."""

    def replace(match: re.Match) -> str:
        if not pending[match[0]]:
            raise TemplateError(
                f"message {number}: a {match[0]} without {_MEDIA[match[0]][0]} to stand for"
            )
        return pending[match[0]].pop(0)

    return _PLACEHOLDERS.sub(replace, text)
