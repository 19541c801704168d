"""All prompts of the video agent: tool schemas, tool results and error messages.

The agent loop and the training traces use the same texts, so a change affects trained models.
Evidence has ids e1, e2, ...; times are in seconds from the start of the video.
"""

from collections.abc import Sequence

from ivx.text.chat_template import VIDEO_PLACEHOLDER
from ivx.text.labels import NOTHING, Label

# The question about each shot; the answers are the index of the video.
LABEL_QUESTION = "What is seen in the clip?"
# Maximum number of labels in a search result.
MOST_HITS = 4


def _schema(name: str, description: str, required: Sequence[str], **properties: dict) -> dict:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


SEARCH_VIDEO = _schema(
    "search_video",
    "Search the video for words; no words: all that is seen.",
    ["query"],
    query={"type": "string"},
)
INSPECT = _schema(
    "inspect",
    "Look at evidence again, or from start to end in seconds.",
    [],
    evidence={"type": "string"},
    start={"type": "number"},
    end={"type": "number"},
)
FINISH = _schema(
    "finish",
    "Answer the question, based on evidence.",
    ["answer", "evidence"],
    answer={"type": "string"},
    evidence={"type": "array", "items": {"type": "string"}},
)
TOOLS = (SEARCH_VIDEO, INSPECT, FINISH)

LAST_STEP = "Answer the question: call finish."
NO_CALL = "error: no call; call one of the functions"
REPEATED = "error: the same call again; look at another span or finish"
NO_FRAMES = "error: no frames are left; call finish"
BAD_QUERY = "error: query must be a string"
BAD_ANSWER = "error: answer must be a string, evidence a list of ids"


def question(text: str) -> str:
    """The prompt of a question about a video."""
    return VIDEO_PLACEHOLDER + text


def seen(span: tuple[float, float], evidence: str) -> str:
    """The result of `inspect`; the frames follow."""
    return f"{evidence}: {seconds(span)}\n{VIDEO_PLACEHOLDER}"


def hits(labels: Sequence[Label], evidence: Sequence[str]) -> str:
    """The result of `search_video`."""
    lines = [
        f"{name}: {seconds(label.span)}, {label.text}"
        for name, label in zip(evidence, labels, strict=True)
    ]
    return "\n".join(lines) or NOTHING


def seconds(span: tuple[float, float]) -> str:
    """A span as text."""
    return f"{span[0]:.1f} to {span[1]:.1f} seconds"


def other_times(answer: str) -> str:
    """The answer of `finish` names times that its evidence does not contain."""
    return f"{answer} is not in the evidence cited; its times are taken"


def no_such_span(length: float) -> str:
    """The arguments of `inspect` are not a span of the video."""
    return f"error: no such span; start and end are from 0.0 to {length:.1f} seconds"


def no_such_evidence(unknown: Sequence[str], known: Sequence[str]) -> str:
    """`finish` cites unknown evidence."""
    available = f"there are {', '.join(known)}" if known else "there is none yet"
    return f"error: no evidence {', '.join(unknown)}; {available}"


def no_such_tool(name: str, names: Sequence[str]) -> str:
    """A call to an unknown tool."""
    return f"error: no function {name}; there are {', '.join(names)}"


def unreadable(reason: str) -> str:
    """A call that cannot be parsed."""
    return f"error: {reason}"
