"""Tool schemas, calls and responses as text, in the format of Qwen.

    system     # Tools ... <tools>\\n{schemas, one JSON object per line}\\n</tools> ...
    assistant  <tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>
    user       <tool_response>\\n...\\n</tool_response>

A schema is {"type": "function", "function": {"name", "description", "parameters"}}. The parser is
tolerant, since models write JSON carelessly, but it ignores calls inside <think> and all text after
the last call.
"""

import ast
import contextlib
import dataclasses
import json
import re
from typing import Any

from ivx.text.thinking import THINK, THINK_END

CALL, CALL_END = "<tool_call>", "</tool_call>"
RESPONSE, RESPONSE_END = "<tool_response>", "</tool_response>"

# The text of the released template, on which models are trained.
_OFFER = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{}\n"
    "</tools>\n\nFor each function call, return a json object with function name and arguments"
    f" within {CALL}{CALL_END} XML tags:\n{CALL}\n"
    '{{"name": <function-name>, "arguments": <args-json-object>}}\n' + CALL_END
)
# An unclosed thought extends to the end.
_THOUGHT = re.compile(rf"{THINK}(.*?)(?:{THINK_END}|\Z)", re.DOTALL)
# Possible missing endings of a truncated call.
_ENDINGS = ("}", "}}", '"}}', "]}}", '"]}}')


class ToolCallError(ValueError):
    """Malformed schemas or calls; the message names the first and the reason."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One call: a tool's name and its arguments by name."""

    name: str
    arguments: dict


@dataclasses.dataclass(frozen=True)
class Parsed:
    """The parts of an assistant's turn.

    Attributes:
      thought: text inside <think>, or empty.
      calls: the valid calls, in order.
      text: text outside the thought and before the first call.
      error: feedback on the first invalid call, or empty.
    """

    thought: str
    calls: tuple[Call, ...]
    text: str
    error: str


def offer(tools: Any) -> str:
    """The text of the system message that describes `tools`.

    Raises:
      ToolCallError: as `check_tools`.
    """
    check_tools(tools)
    return _OFFER.format("\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))


def render_call(name: str, arguments: dict) -> str:
    """A call as an assistant writes it."""
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"{CALL}\n{call}\n{CALL_END}"


def check_tools(tools: Any) -> None:
    """Checks that `tools` is a list of schemas.

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
        _check_writable(tool, "tool")


def check_calls(calls: Any) -> None:
    """Checks that `calls` is a list of {"name": str, "arguments": {...}}.

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
        _check_writable(call, "tool call")


def _check_writable(value: dict, name: str) -> None:
    try:
        _plain(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise ToolCallError(f"a {name} cannot be written as JSON ({error})") from error


def parse(text: str) -> Parsed:
    """Parses an assistant's turn; never raises."""
    thought, reply = _split_thought(text)
    before, *bodies = _bodies(reply)
    calls, error = [], ""
    for body in bodies:
        try:
            calls.append(_call(body))
        except ToolCallError as invalid:
            error = error or str(invalid)
    return Parsed(thought, tuple(calls), before.strip(), error)


def _split_thought(text: str) -> tuple[str, str]:
    """(thought, other text); the prompt may have opened the first thought."""
    if THINK_END in text.split(THINK, 1)[0]:
        text = THINK + text
    return "".join(_THOUGHT.findall(text)).strip(), _THOUGHT.sub("", text)


def _bodies(text: str) -> list[str]:
    """Text before the first call, then the body of each; JSON strings may contain the tags."""
    before, *rest = text.split(CALL, 1)
    bodies = [before]
    while rest:
        body = rest[0].lstrip()
        try:
            end = json.JSONDecoder().raw_decode(body)[1]
        except (ValueError, RecursionError):
            match = re.search(f"{CALL_END}|{CALL}", body)
            end = match.start() if match else len(body)
        bodies.append(body[:end])
        rest = body[end:].split(CALL, 1)[1:]
    return bodies


def _call(body: str) -> Call:
    """Parses one call.

    Raises:
      ToolCallError: the body is not JSON of the right form, even for a tolerant parser.
    """
    call = _loads(body)
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise ToolCallError('A call must be {"name": ..., "arguments": {...}}.')
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        arguments = _loads(arguments)
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise ToolCallError(f"The arguments of {call['name']} must be an object.")
    return Call(call["name"], arguments)


def _loads(text: str) -> Any:
    """Parses JSON or a Python literal, possibly in a code fence or truncated.

    Raises:
      ToolCallError: the text is neither, or its value is not valid in JSON.
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


def _plain(value: Any) -> Any:
    """The value after a round trip through JSON.

    Raises:
      ValueError: it contains unpaired surrogates or non-finite numbers.
      TypeError: it contains types that JSON lacks.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    text.encode()
    return json.loads(text)
