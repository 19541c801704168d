"""Random conversations of every kind, to compare chat templates."""

import dataclasses
import json
import random

from ivx.text.chat_template import VIDEO_PLACEHOLDER

COUNT = 400

_WORDS = (
    "Who comes in?",
    "视频里发生了什么？",
    "naïve façade — “quoted” 'single' & <b>bold</b>",
    "مرحبا بالعالم",
    "Ответь кратко.",
    "🎬🐈‍⬛ two\n\n\tlines",
    "for i in range(3):\n    print({'a': i})",
    '{"name": "x", "arguments": {}}',
    "  spaces around  ",
    "\nbreaks around\n",
    "12.5 seconds",
    "",
)
_TOOLS = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {key: {"type": kind} for key, kind in properties.items()},
                "required": list(properties)[:1],
            },
        },
    }
    for name, description, properties in (
        ("search", "Search the video for words, “quoted” or <not>.", {"query": "string"}),
        ("inspect", "再看一遍 from start to end.", {"start": "number", "end": "number"}),
        ("finish", "", {}),
    )
)
_ARGUMENTS = (
    {},
    {"query": "a cat & <dog>"},
    {"start": 1.5, "end": 20, "why": None, "sure": True},
    {"answer": "红色", "evidence": ["e1", "e2"], "nested": {"é": [1, {"x": -0.25}]}},
    {"text": 'a "quote"\n\\ and a break'},
)


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Arguments of `ivx.text.chat_template.render`.

    Attributes:
      messages: with a placeholder <VIDEO_CONTEXT> for each video.
      tools: schemas of the available tools.
      generate: whether the prompt ends with an open turn.
      enable_thinking: None in conversations with videos.
    """

    messages: list[dict]
    tools: list[dict]
    generate: bool
    enable_thinking: bool | None

    @property
    def videos(self) -> int:
        return sum(str(message["content"]).count(VIDEO_PLACEHOLDER) for message in self.messages)


def generate(count: int = COUNT, seed: int = 0) -> list[Conversation]:
    """Deterministic conversations for a seed, on every machine."""
    rng = random.Random(seed)
    return [_conversation(rng, rng.choice((None, None, True, False))) for _ in range(count)]


def as_items(messages: list[dict]) -> list[dict]:
    """Messages in the format of transformers: an item for each video instead of a placeholder."""
    converted = []
    for message in messages:
        texts = _text(message["content"]).split(VIDEO_PLACEHOLDER)
        items = [{"type": "text", "text": texts[0]}]
        for text in texts[1:]:
            items += [{"type": "video"}, {"type": "text", "text": text}]
        converted.append(message | {"content": items if len(texts) > 1 else texts[0]})
    return converted


def _text(content: str | list[dict]) -> str:
    """The text of a message; media items have none."""
    if isinstance(content, str):
        return content
    return "".join(item.get("text", "") for item in content)


def _conversation(rng: random.Random, enable_thinking: bool | None) -> Conversation:
    thinks = enable_thinking is not None
    messages = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": rng.choice(_WORDS)})
    for _ in range(rng.randint(1, 4)):
        messages.append({"role": "user", "content": _words(rng, videos=not thinks)})
        for _ in range(rng.choice((0, 0, 1, 2))):
            calls = [_call(rng) for _ in range(rng.randint(1, 3))]
            messages.append(
                {"role": "assistant", "content": _thought(rng, 0.5), "tool_calls": calls}
            )
            for _ in calls:
                messages.append({"role": "tool", "content": _words(rng, videos=not thinks)})
        messages.append({"role": "assistant", "content": _thought(rng, 0.4)})
    # A prompt lacks the last answer. With enable_thinking the reference rewrites finished turns,
    # so those conversations are always prompts.
    is_prompt = thinks or rng.random() < 0.5
    tools = list(_TOOLS[: rng.randint(1, 3)]) if rng.random() < 0.5 else []
    return Conversation(messages[:-1] if is_prompt else messages, tools, is_prompt, enable_thinking)


def _words(rng: random.Random, videos: bool) -> str:
    """One to three texts, possibly with videos between them."""
    text = rng.choice(_WORDS)
    for _ in range(rng.choice((0, 1, 1, 2))):
        text += (VIDEO_PLACEHOLDER if videos and rng.random() < 0.6 else " ") + rng.choice(_WORDS)
    return text


def _thought(rng: random.Random, share: float) -> str:
    """An answer of the assistant; a share of them follows a thought."""
    answer = rng.choice(_WORDS).lstrip("\n")
    if rng.random() < share:
        answer = f"<think>\nBecause {rng.choice(_WORDS).strip()}.\n</think>\n\n{answer}"
    return answer


def _call(rng: random.Random) -> dict:
    arguments = json.loads(json.dumps(rng.choice(_ARGUMENTS)))
    return {"name": rng.choice(_TOOLS)["function"]["name"], "arguments": arguments}
