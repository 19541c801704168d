"""The agent loop: the model speaks, its calls run, and their results join the context.

    for step in 1, 2, ...:    speak -> parse the calls -> run them -> feedback
                              finish with existing evidence -> answer, its times checked
    the last step             is announced; without a finish, its text is the answer

Nothing that the model writes ends an episode early: malformed calls, unknown tools, repeated calls
and unknown evidence are answered with a message.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence

from data_pipelines.media_error import MediaError
from data_pipelines.views import VideoFile, ViewConfig
from ivx.agent import context as events
from ivx.agent.budget import Budget
from ivx.agent.chat_model import ChatModel
from ivx.agent.context import Context, Episode
from ivx.agent.tool import Result, Tool, World
from ivx.agent.tools.finish import Finish
from ivx.agent.tools.inspect import Inspect
from ivx.agent.tools.search_video import SearchVideo
from ivx.errors import UserError
from ivx.text import agent_texts, tool_calls
from ivx.text.chat_template import escape_tags
from ivx.text.evidence import EvidenceNames

TOOLS: tuple[Tool, ...] = (SearchVideo(), Inspect(), Finish())


def run(
    model: ChatModel,
    video_file: VideoFile,
    question: str,
    tools: Sequence[Tool] = TOOLS,
    budget: Budget | None = None,
    view_config: ViewConfig | None = None,
    video: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> Episode:
    """Answers one question about one video.

    Args:
      model: the model.
      video_file: the video, as the model knows it.
      question: its text.
      tools: the available tools.
      budget: limits; None for the defaults.
      view_config: how densely frames are sampled; None for the defaults.
      video: path of the file, for readers of the trace.
      clock: time in seconds, from any origin.

    Raises:
      UserError: the video cannot be read, or the question contains reserved tokens.
    """
    budget, view_config = budget or Budget(), view_config or ViewConfig()
    context = Context(tuple(tool.schema for tool in tools), model.count, clock)
    world = World(video_file, view_config, model, EvidenceNames(), budget.frames)
    _open(context, world, question, tuple(tool.schema for tool in tools), video)
    calls_made = set()
    while True:
        context.begin_step()
        limit = budget.reached(context.step, context.tokens, context.seconds)
        if limit:
            _add_feedback(context, Result(agent_texts.LAST_STEP))
        turn = _speak(context, model)
        if limit:
            return _conclude(context, world, tools, turn, limit)
        if turn.error or not turn.calls:
            text = agent_texts.unreadable(turn.error) if turn.error else agent_texts.NO_CALL
            _add_feedback(context, Result(text, refused=True))
            continue
        for call in turn.calls:
            result = _run_call(call, tools, world, calls_made)
            if result.answer is not None:
                _verify(context, result)
                if not result.refused:
                    context.add(events.Answer, result.answer, evidence=result.cited)
                    return context.episode
            _add_feedback(context, result)


def _open(
    context: Context, world: World, question: str, tools: tuple[dict, ...], video: str
) -> None:
    """Adds the overview and the question."""
    video_file = world.video_file
    count = min(world.view_config.overview_frames, world.frames_left)
    view = video_file.overview(dataclasses.replace(world.view_config, overview_frames=count))
    try:
        frames = world.model.frames(view)
    except MediaError as error:
        raise UserError(str(error)) from error
    world.frames_left -= len(frames)
    context.add(
        events.Instruction,
        question,
        message=_message("user", agent_texts.question(question), view),
        video=video,
        seconds=video_file.seconds,
        rate=video_file.info.rate,
        tools=tools,
    )
    context.add(events.Observation, "overview", frames=frames, span=(0.0, video_file.seconds))


def _speak(context: Context, model: ChatModel) -> tool_calls.Parsed:
    """Gets the model's turn, parses it, and adds it to the context."""
    [reply] = model.ask([context.conversation])
    reply = escape_tags(reply)
    turn = tool_calls.parse(reply)
    # The first event of the turn holds the message.
    message = {"role": "assistant", "content": reply}
    words = "\n".join(part for part in (turn.thought, turn.text) if part)
    if words or not turn.calls:
        context.add(events.Reasoning, words or reply, message=message)
        message = None
    for call in turn.calls:
        text = json.dumps(call.arguments, ensure_ascii=False)
        context.add(events.Action, text, message=message, name=call.name, arguments=call.arguments)
        message = None
    return turn


def _run_call(
    call: tool_calls.Call, tools: Sequence[Tool], world: World, calls_made: set[str]
) -> Result:
    """Runs one call; a repeated call is refused."""
    by_name = {tool.name: tool for tool in tools}
    if call.name not in by_name:
        return Result(agent_texts.no_such_tool(call.name, tuple(by_name)), refused=True)
    key = json.dumps([call.name, call.arguments], sort_keys=True)
    if key in calls_made:
        return Result(agent_texts.REPEATED, refused=True)
    result = by_name[call.name].call(call.arguments, world)
    if not result.refused:
        calls_made.add(key)
    return result


def _add_feedback(context: Context, result: Result) -> None:
    """Adds the result of a call to the context."""
    for label in result.written:
        context.add(events.Memory, label.text, span=label.span)
    # Only text with a view may contain placeholders. Other text may repeat what the model wrote and
    # is escaped.
    text = result.text if result.view else escape_tags(result.text)
    ids = tuple(evidence.id for evidence in result.evidence)
    message = _message("tool", text, result.view)
    context.add(events.Feedback, text, message=message, evidence=ids, refused=result.refused)
    for evidence in result.evidence:
        fields = {"span": evidence.span, "evidence": (evidence.id,)}
        if result.view:
            context.add(events.Observation, "inspected", frames=result.frames, **fields)
        else:
            context.add(events.Memory, evidence.text, **fields)


def _verify(context: Context, result: Result) -> None:
    """Adds whether the answer's evidence exists and supports its times."""
    passed = not (result.refused or result.corrected)
    text = "all cited evidence exists" if passed else result.text
    context.add(events.Verification, text, passed=passed, evidence=result.cited)


def _conclude(
    context: Context, world: World, tools: Sequence[Tool], turn: tool_calls.Parsed, limit: str
) -> Episode:
    """Ends the episode with the last turn as the answer, citing only existing evidence."""
    for call in turn.calls:
        result = _run_call(call, tools, world, set()) if call.name == Finish.name else None
        if result and result.answer is not None:
            _verify(context, result)
            known = tuple(name for name in result.cited if name in world.names.assigned)
            context.add(events.Answer, result.answer, evidence=known, forced=limit)
            return context.episode
    context.add(events.Answer, turn.text, forced=limit)
    return context.episode


def _message(role: str, text: str, view: dict | None) -> dict:
    if view is None:
        return {"role": role, "content": text}
    return {"role": role, "content": [view, {"type": "text", "text": text}]}
