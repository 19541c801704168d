"""Tool calls as text, in the convention of Qwen: what is offered, called and answered.

    system     # Tools ... <tools>\\n{schema, one JSON a line}\\n</tools> ...
    assistant  <tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>
    user       <tool_response>\\n...\\n</tool_response>

A schema is {"type": "function", "function": {"name", "description", "parameters"}}. Reading is
tolerant, since models write JSON carelessly, but a call is read only where one was meant: never
inside <think>, and nothing counts after the last call.
"""

import ast
import contextlib
import dataclasses
import json
import re
from collections.abc import Sequence

from ivx.text.thinking import THINK, THINK_END

CALL, CALL_END = "<tool_call>", "</tool_call>"
RESPONSE, RESPONSE_END = "<tool_response>", "</tool_response>"

# The released template's own words: a model that was trained on them knows what is meant.
_OFFER = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{}\n"
    "</tools>\n\nFor each function call, return a json object with function name and arguments"
    f" within {CALL}{CALL_END} XML tags:\n{CALL}\n"
    '{{"name": <function-name>, "arguments": <args-json-object>}}\n' + CALL_END
)
# A thought that is not closed goes on to the end.
_THOUGHT = re.compile(rf"{THINK}(.*?)(?:{THINK_END}|\Z)", re.DOTALL)
# What may be missing at the end of a call that was cut short.
_ENDINGS = ("}", "}}", '"}}', "]}}", '"]}}')


class ToolCallError(ValueError):
    """Schemas or calls that are not of the form above; the text says which and why."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One call: a tool's name and its arguments by name."""

    name: str
    arguments: dict


@dataclasses.dataclass(frozen=True)
class Parsed:
    """What an assistant wrote, taken apart.

    Attributes:
      thought: what stands inside <think>, empty if nothing does.
      calls: the calls that could be read, in order.
      text: what was said outside thought and before the first call.
      error: a sentence to be fed back on the first call that could not be read; empty if all could.
    """

    thought: str
    calls: tuple[Call, ...]
    text: str
    error: str


def offer(tools: Sequence[dict]) -> str:
    """The text of the system message that offers `tools`.

    Raises:
      ToolCallError: as `check_tools`.
    """
    check_tools(tools)
    return _OFFER.format("\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))


def render_call(name: str, arguments: dict) -> str:
    """A call as an assistant writes it."""
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"{CALL}\n{call}\n{CALL_END}"


def response(text: str) -> str:
    """What a tool gave, as it stands in the user's turn."""
    return f"{RESPONSE}\n{text}\n{RESPONSE_END}"


def check_tools(tools: Sequence[dict]) -> None:
    """Makes sure that `tools` is a list of schemas.

    Raises:
      ToolCallError: it is not.
    """
    if not isinstance(tools, (list, tuple)):
        raise ToolCallError(f"tools must be a list of function schemas, not {tools!r}")
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        if (
            not isinstance(function, dict)
            or tool.get("type") != "function"
            or not isinstance(function.get("name"), str)
            or not isinstance(function.get("parameters", {}), dict)
        ):
            raise ToolCallError(
                f'the tool {tool!r} is not of the form {{"type": "function", "function":'
                ' {"name": ..., "description": ..., "parameters": {...}}}'
            )


def check_calls(calls: Sequence[dict]) -> None:
    """Makes sure that `calls` is a list of {"name": str, "arguments": {...}}.

    Raises:
      ToolCallError: it is not.
    """
    if not isinstance(calls, list):
        raise ToolCallError(f"tool_calls must be a list of calls, not {calls!r}")
    for call in calls:
        if (
            not isinstance(call, dict)
            or set(call) != {"name", "arguments"}
            or not isinstance(call["name"], str)
            or not isinstance(call["arguments"], dict)
        ):
            raise ToolCallError(
                f'the tool call {call!r} is not of the form {{"name": ..., "arguments": {{...}}}}'
            )


def parse(text: str) -> Parsed:
    """Takes an assistant's turn apart; never raises, whatever the text."""
    thought, spoken = _split_thought(text)
    before, *bodies = _bodies(spoken)
    calls, error = [], ""
    for body in bodies:
        try:
            calls.append(_call(body))
        except ToolCallError as wrong:
            error = error or str(wrong)
    return Parsed(thought, tuple(calls), before.strip(), error)


def _split_thought(text: str) -> tuple[str, str]:
    """Thought, and what is said outside of it; the prompt may have opened the first thought."""
    if THINK_END in text.split(THINK, 1)[0]:
        text = THINK + text
    return "".join(_THOUGHT.findall(text)).strip(), _THOUGHT.sub("", text)


def _bodies(text: str) -> list[str]:
    """Text before the first call, then what stands in each; JSON may itself hold the tags."""
    before, *rest = text.split(CALL, 1)
    bodies = [before]
    while rest:
        body = rest[0].lstrip()
        try:
            end = json.JSONDecoder().raw_decode(body)[1]
        except (ValueError, RecursionError):
            found = re.search(f"{CALL_END}|{CALL}", body)
            end = found.start() if found else len(body)
        bodies.append(body[:end])
        rest = body[end:].split(CALL, 1)[1:]
    return bodies


def _call(body: str) -> Call:
    """Reads one call.

    Raises:
      ToolCallError: it is not JSON of the right form, however kindly read.
    """
    found = _loads(body)
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        raise ToolCallError('A call must be {"name": ..., "arguments": {...}}.')
    arguments = found.get("arguments")
    if isinstance(arguments, str):
        arguments = _loads(arguments)
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise ToolCallError(f"The arguments of {found['name']} must be an object.")
    return Call(found["name"], arguments)


def _loads(text: str):
    """JSON, or what was meant for it: a Python literal, in a code fence, cut short at the end.

    Raises:
      ToolCallError: it is none of these, or holds what JSON cannot.
    """
    text = re.sub(r"^```\w*|```$", "", text.strip()).strip()
    reasons = []
    for candidate in (text, *(text.rstrip(", \n") + ending for ending in _ENDINGS)):
        try:
            return _plain(json.loads(candidate))
        except (ValueError, RecursionError) as error:
            reasons.append(error)
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return _plain(ast.literal_eval(candidate))
    reason = getattr(reasons[0], "msg", str(reasons[0]))
    raise ToolCallError(f"The call is not JSON: {reason}.") from reasons[0]


def _plain(value):
    """A value as it comes back from a file.

    Raises:
      ValueError: it holds halves of characters, or numbers that are not finite.
      TypeError: it holds what JSON has not.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    text.encode()
    return json.loads(text)
