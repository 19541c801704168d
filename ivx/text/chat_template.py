"""The chat template: messages to text, in pieces that say whether they are trained on.

    <|im_start|>system\\n{..}<|im_end|>\\n
    <|im_start|>user\\n{..}<|im_end|>\\n
    <|im_start|>assistant\\n{..}<|im_end|>\\n
    <|im_start|>user\\n<tool_response>\\n{..}\\n</tool_response><|im_end|>\\n    (role tool)
    {..}<|im_end|>                             (role pretrain, which stands alone)

Loss falls on what an assistant says and on its <|im_end|>, nowhere else; of pretraining on all but
vision tokens. There is no default
system message; tools that are offered are described at the end of it. Results of tools that follow
each other share one turn. A video stands in the text of a user or a tool as the placeholder
<VIDEO_CONTEXT>, which is replaced by its vision tokens, each slice after its time; an image as
<IMG_CONTEXT>, which has no time:

    <0.2 seconds><|vision_start|><|video_pad|>...<|vision_end|><1.2 seconds><|vision_start|>...
    <|vision_start|><|image_pad|>...<|vision_end|>

Thoughts stand in the text of the assistant, inside <think>. Whether a prompt asks for one is said
by `enable_thinking`, as users of Qwen know it:

    None   as the Instruct models: nothing is opened, nothing left out
    True   as the Thinking models: the open turn begins with <think>\\n
    False  as Qwen3 without thought: the open turn begins with <think>\\n\\n</think>\\n\\n

With True and False, thoughts of turns before the user's last question are left out, and those
after it are written with the line breaks of Qwen3.

Training, evaluation and chat all come through `render`.
"""

import dataclasses
import re
from collections.abc import Sequence

from ivx.text import special_tokens, thinking, tool_calls

VIDEO_PLACEHOLDER = "<VIDEO_CONTEXT>"
IMAGE_PLACEHOLDER = "<IMG_CONTEXT>"
ROLES = ("system", "user", "assistant", "tool", "pretrain")

_RESERVED = re.compile(
    "|".join(re.escape(token) for token in special_tokens.ALL if token.startswith("<|"))
)
# What each stands for: one, several.
_MEDIA = {VIDEO_PLACEHOLDER: ("a video", "videos"), IMAGE_PLACEHOLDER: ("an image", "images")}
_PLACEHOLDERS = re.compile("|".join(_MEDIA))
# In parentheses, so that splitting by it keeps it.
_VISION = re.compile(
    f"((?:{re.escape(special_tokens.VISION_START)}|{re.escape(special_tokens.VISION_END)}"
    f"|{re.escape(special_tokens.VIDEO_PAD)}|{re.escape(special_tokens.IMAGE_PAD)})+)"
)
# Whose text may hold them.
_SHOWING = ("user", "tool", "pretrain")
# What a tool's result may not hold beside these.
_RESPONSE_TAGS = re.compile(f"{tool_calls.RESPONSE}|{tool_calls.RESPONSE_END}")
_FORGING = re.compile(f"{_RESERVED.pattern}|{_RESPONSE_TAGS.pattern}|{_PLACEHOLDERS.pattern}")


class TemplateError(ValueError):
    """Messages that cannot be rendered; the text says which and why."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """A run of text that is tokenized by itself; `trained` tells whether its tokens bear loss."""

    text: str
    trained: bool = False


def video_text(slice_times: Sequence[float | None], tokens_per_slice: int) -> str:
    """What stands for a video: its slices, each after its time in seconds if that is known."""
    pads = _between(special_tokens.VIDEO_PAD * tokens_per_slice)
    return "".join(pads if time is None else f"<{time:.1f} seconds>{pads}" for time in slice_times)


def image_text(tokens: int) -> str:
    """What stands for an image."""
    return _between(special_tokens.IMAGE_PAD * tokens)


def _between(pads: str) -> str:
    return special_tokens.VISION_START + pads + special_tokens.VISION_END


def placeholders(messages: Sequence[dict]) -> list[str]:
    """Those that `render` replaces, in order."""
    return [
        placeholder
        for number, message in enumerate(messages)
        if message.get("role") in _SHOWING
        for placeholder in _PLACEHOLDERS.findall(message_text(message, number))
    ]


def without_placeholders(text: str) -> str:
    """The words alone."""
    return _PLACEHOLDERS.sub("", text)


def render(
    messages: Sequence[dict],
    videos: Sequence[str],
    generate: bool = False,
    tools: Sequence[dict] = (),
    enable_thinking: bool | None = None,
    images: Sequence[str] = (),
) -> list[Piece]:
    """Writes a conversation as pieces of text.

    Args:
      messages: [{"role": ..., "content": str or [items], "loss": bool (assistant, default true),
        "tool_calls": [{"name", "arguments"}] (assistant, written after the text)}].
      videos: the text of each video, in the order of their placeholders.
      generate: end with an open assistant turn.
      tools: schemas of the tools on offer.
      enable_thinking: whether the open turn begins with a thought, see above.
      images: the text of each image, in the order of theirs.

    Raises:
      TemplateError: an unknown role or item, placeholders that do not match the media, tools or
        calls of another form, or text that holds one of the reserved <|...|> tokens, which would
        forge a turn or a picture.
    """
    waiting = {VIDEO_PLACEHOLDER: list(videos), IMAGE_PLACEHOLDER: list(images)}
    roles = [message.get("role") if isinstance(message, dict) else message for message in messages]
    pieces = []
    asked = thinking.last_question(roles)
    offer = _offer(tools)
    if offer and roles[:1] != ["system"]:
        pieces.append(Piece(f"{special_tokens.IM_START}system\n{offer}{special_tokens.IM_END}\n"))
    for number, (role, message) in enumerate(zip(roles, messages, strict=True)):
        if role not in ROLES:
            raise TemplateError(f"message {number}: role {role!r} is not one of {', '.join(ROLES)}")
        text = message_text(message, number)
        if message.get("tool_calls") and role != "assistant":
            raise TemplateError(
                f"message {number}: tool_calls in the role {role}; an assistant calls"
            )
        if role == "pretrain":
            if len(messages) > 1 or offer or generate:
                raise TemplateError(
                    f"message {number}: role pretrain stands alone: no other messages, no tools"
                )
            text = _with_media(text, waiting, number) + special_tokens.IM_END
            trained = message.get("loss") is not False
            pieces += [
                Piece(part, trained and not _VISION.fullmatch(part))
                for part in _VISION.split(text)
                if part
            ]
        elif role == "assistant":
            thought = ""
            if enable_thinking is not None:
                thought, text = thinking.split(text)
            text = _with_calls(text, message.get("tool_calls"), number)
            pieces.append(Piece(f"{special_tokens.IM_START}assistant\n"))
            pieces.append(
                Piece(
                    (thought if number > asked else "") + text + special_tokens.IM_END,
                    trained=message.get("loss") is not False,
                )
            )
            pieces.append(Piece("\n"))
        elif role == "tool":
            text = tool_calls.response(_with_media(text, waiting, number))
            goes_on = roles[number - 1 : number] == ["tool"]
            ends = roles[number + 1 : number + 2] != ["tool"]
            start = "" if goes_on else f"{special_tokens.IM_START}user"
            end = f"{special_tokens.IM_END}\n" if ends else ""
            pieces.append(Piece(f"{start}\n{text}{end}"))
        else:
            if role == "user":
                text = _with_media(text, waiting, number)
            elif offer and number == 0:
                text = f"{text}\n\n{offer}"
            pieces.append(
                Piece(f"{special_tokens.IM_START}{role}\n{text}{special_tokens.IM_END}\n")
            )
    for placeholder, left in waiting.items():
        if left:
            raise TemplateError(
                f"{len(left)} {_MEDIA[placeholder][1]} have no {placeholder} in the text; write one"
                " for each"
            )
    if generate:
        opened = thinking.OPENINGS[enable_thinking]
        pieces.append(Piece(f"{special_tokens.IM_START}assistant\n{opened}"))
    return pieces


def harmless(text: str) -> str:
    """Text from outside that forges no turn, picture or result: a space breaks such tags."""
    return _FORGING.sub(lambda match: match[0].replace("<", "< ", 1), text)


def message_text(message: dict, number: int) -> str:
    """The text of a message, its items joined; media items give none, placeholders mark them.

    Raises:
      TemplateError: content of an unknown kind, or reserved tokens in it.
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
    forged = _RESERVED.search(text)
    if not forged and message.get("role") == "tool":
        forged = _RESPONSE_TAGS.search(text)
    if forged:
        raise TemplateError(
            f"message {number}: the text holds the reserved token {forged[0]}; remove it"
        )
    return text


def _offer(tools: Sequence[dict]) -> str:
    """What the system message says of tools; nothing if there are none."""
    if not tools:
        return ""
    try:
        text = tool_calls.offer(tools)
    except tool_calls.ToolCallError as error:
        raise TemplateError(str(error)) from error
    forged = _RESERVED.search(text)
    if forged:
        raise TemplateError(f"the tools hold the reserved token {forged[0]}; remove it")
    return text


def _with_calls(text: str, calls: list[dict] | None, number: int) -> str:
    """An assistant's text with its calls, each on a line of its own."""
    if not calls:
        return text
    try:
        tool_calls.check_calls(calls)
    except tool_calls.ToolCallError as error:
        raise TemplateError(f"message {number}: {error}") from error
    written = [tool_calls.render_call(call["name"], call["arguments"]) for call in calls]
    forged = _RESERVED.search("".join(written))
    if forged:
        raise TemplateError(
            f"message {number}: a tool call holds the reserved token {forged[0]}; remove it"
        )
    return "\n".join([text, *written] if text else written)


def _with_media(text: str, waiting: dict[str, list[str]], number: int) -> str:
    """Replaces each placeholder by the next of its kind in `waiting`, which is consumed."""

    def replace(match: re.Match) -> str:
        if not waiting[match[0]]:
            raise TemplateError(
                f"message {number}: a {match[0]} without {_MEDIA[match[0]][0]} to stand for"
            )
        return waiting[match[0]].pop(0)

    return _PLACEHOLDERS.sub(replace, text)
