"""The agent: the model speaks, its calls are done, what they gave joins the context, until it
finishes.

    for step in 1, 2, ...:    speak -> read the calls -> act -> feedback
                              finish with evidence that exists -> answer, its times checked
    the last step             is announced; its text is the answer if it does not finish

Nothing that the model writes ends an episode early: calls that cannot be read, unknown tools,
calls that were made before and evidence that does not exist are answered in words.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence

from data_pipelines.media_error import MediaError
from data_pipelines.views import Footage, Looks
from ivx.agent import context as events
from ivx.agent.asker import Asker
from ivx.agent.budget import Budget
from ivx.agent.context import Context, Episode
from ivx.agent.tool import Result, Tool, World
from ivx.agent.tools.finish import Finish
from ivx.agent.tools.inspect import Inspect
from ivx.agent.tools.search_video import SearchVideo
from ivx.errors import UserError
from ivx.text import agent_texts, tool_calls
from ivx.text.chat_template import harmless
from ivx.text.evidence import EvidenceNames

TOOLS: tuple[Tool, ...] = (SearchVideo(), Inspect(), Finish())


def run(
    asker: Asker,
    footage: Footage,
    question: str,
    tools: Sequence[Tool] = TOOLS,
    budget: Budget | None = None,
    looks: Looks | None = None,
    video: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> Episode:
    """Answers one question about one video.

    Args:
      asker: the model.
      footage: the video, as the asker knows it.
      question: in words.
      tools: what may be called.
      budget: limits; the default if None.
      looks: how densely to look; the default if None.
      video: where the file is, for those who read the trace.
      clock: seconds, from any beginning.

    Raises:
      UserError: the video cannot be read, or the question holds reserved tokens.
    """
    budget, looks = budget or Budget(), looks or Looks()
    context = Context(tuple(tool.schema for tool in tools), asker.count, clock)
    world = World(footage, looks, asker, EvidenceNames(), budget.frames)
    _open(context, world, question, tuple(tool.schema for tool in tools), video)
    made = set()
    while True:
        context.begin_step()
        limit = budget.reached(context.step, context.tokens, context.seconds)
        if limit:
            _tell(context, Result(agent_texts.LAST_STEP))
        said = _speak(context, asker)
        if limit:
            return _conclude(context, world, tools, said, limit)
        if said.error or not said.calls:
            text = agent_texts.unreadable(said.error) if said.error else agent_texts.NO_CALL
            _tell(context, Result(text, refused=True))
            continue
        for call in said.calls:
            result = _do(call, tools, world, made)
            if result.answer is not None:
                _verify(context, result)
                if not result.refused:
                    context.add(events.Answer, result.answer, evidence=result.cited)
                    return context.episode
            _tell(context, result)


def _open(context: Context, world: World, question: str, tools: tuple, video: str) -> None:
    """The overview and the question."""
    footage = world.footage
    glance = min(world.looks.overview_frames, world.frames_left)
    view = footage.overview(dataclasses.replace(world.looks, overview_frames=glance))
    try:
        frames = world.asker.frames(view)
    except MediaError as error:
        raise UserError(str(error)) from error
    world.frames_left -= len(frames)
    context.add(
        events.Instruction,
        question,
        message=_message("user", agent_texts.question(question), view),
        video=video,
        seconds=footage.seconds,
        rate=footage.info.rate,
        tools=tools,
    )
    context.add(events.Observation, "overview", frames=frames, span=(0.0, footage.seconds))


def _speak(context: Context, asker: Asker) -> tool_calls.Parsed:
    """The model's turn, taken apart and put into the context."""
    [reply] = asker.ask([context.conversation])
    reply = harmless(reply)
    said = tool_calls.parse(reply)
    # The first event of the turn brings the message.
    message = {"role": "assistant", "content": reply}
    words = "\n".join(part for part in (said.thought, said.text) if part)
    if words or not said.calls:
        context.add(events.Reasoning, words or reply, message=message)
        message = None
    for call in said.calls:
        text = json.dumps(call.arguments, ensure_ascii=False)
        context.add(events.Action, text, message=message, name=call.name, arguments=call.arguments)
        message = None
    return said


def _do(call: tool_calls.Call, tools: Sequence[Tool], world: World, made: set[str]) -> Result:
    """One call; what was done before is not done again."""
    by_name = {tool.name: tool for tool in tools}
    if call.name not in by_name:
        return Result(agent_texts.no_such_tool(call.name, tuple(by_name)), refused=True)
    key = json.dumps([call.name, call.arguments], sort_keys=True)
    if key in made:
        return Result(agent_texts.REPEATED, refused=True)
    result = by_name[call.name].call(call.arguments, world)
    if not result.refused:
        made.add(key)
    return result


def _tell(context: Context, result: Result) -> None:
    """What a call gave, as the context holds it from now on."""
    for label in result.written:
        context.add(events.Memory, label.text, span=label.span)
    # A placeholder stands for the frames of `view` and for nothing else: other text may repeat
    # what the model wrote, and is made harmless.
    text = result.text if result.view else harmless(result.text)
    ids = tuple(evidence.id for evidence in result.evidence)
    message = _message("tool", text, result.view)
    context.add(events.Feedback, text, message=message, evidence=ids, refused=result.refused)
    for evidence in result.evidence:
        where = {"span": evidence.span, "evidence": (evidence.id,)}
        if result.view:
            context.add(events.Observation, "inspected", frames=result.frames, **where)
        else:
            context.add(events.Memory, evidence.text, **where)


def _verify(context: Context, result: Result) -> None:
    """Whether an answer may cite what it cites, and says of it what it shows."""
    passed = not (result.refused or result.mended)
    text = "all cited evidence exists" if passed else result.text
    context.add(events.Verification, text, passed=passed, evidence=result.cited)


def _conclude(
    context: Context, world: World, tools: Sequence[Tool], said: tool_calls.Parsed, limit: str
) -> Episode:
    """Takes what was said at the last step for the answer, citing only what exists."""
    for call in said.calls:
        result = _do(call, tools, world, set()) if call.name == Finish.name else None
        if result and result.answer is not None:
            _verify(context, result)
            known = tuple(name for name in result.cited if name in world.names.given)
            context.add(events.Answer, result.answer, evidence=known, forced=limit)
            return context.episode
    context.add(events.Answer, said.text, forced=limit)
    return context.episode


def _message(role: str, text: str, view: dict | None) -> dict:
    if view is None:
        return {"role": role, "content": text}
    return {"role": role, "content": [view, {"type": "text", "text": text}]}
