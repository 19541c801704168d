"""Every sentence that the video agent is told: its tools, what they answer, what is refused.

The loop writes them as it runs, and the traces that models are trained on hold the same ones.
Evidence has ids, e1, e2, ...; a time is in seconds of the whole video.
"""

from collections.abc import Sequence

from ivx.text.chat_template import VIDEO_PLACEHOLDER
from ivx.text.labels import NOTHING, Label

# Asked of every shot by itself; what the model answers is its index of the video.
LABEL_QUESTION = "What is seen in the clip?"
# Most labels that a search lists.
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
    """How a question about a video is put."""
    return VIDEO_PLACEHOLDER + text


def seen(span: tuple[float, float], evidence: str) -> str:
    """What `inspect` answers; the frames follow."""
    return f"{evidence}: {seconds(span)}\n{VIDEO_PLACEHOLDER}"


def hits(found: Sequence[Label], evidence: Sequence[str]) -> str:
    """What `search_video` answers."""
    lines = [
        f"{name}: {seconds(label.span)}, {label.text}"
        for name, label in zip(evidence, found, strict=True)
    ]
    return "\n".join(lines) or NOTHING


def seconds(span: tuple[float, float]) -> str:
    """A span in words."""
    return f"{span[0]:.1f} to {span[1]:.1f} seconds"


def other_times(answer: str) -> str:
    """`finish` names times that its evidence does not have."""
    return f"{answer} is not in the evidence cited; its times are taken"


def no_such_span(length: float) -> str:
    """`inspect` was asked for something else than a span of the video."""
    return f"error: no such span; start and end are from 0.0 to {length:.1f} seconds"


def no_such_evidence(unknown: Sequence[str], known: Sequence[str]) -> str:
    """`finish` cites what does not exist."""
    there = f"there are {', '.join(known)}" if known else "there is none yet"
    return f"error: no evidence {', '.join(unknown)}; {there}"


def no_such_tool(name: str, names: Sequence[str]) -> str:
    """A call to a tool that is not on offer."""
    return f"error: no function {name}; there are {', '.join(names)}"


def unreadable(reason: str) -> str:
    """A call that is not JSON."""
    return f"error: {reason}"
