"""The agent stage of a recipe: scores on questions about long videos, against a single pass."""

import math
import pathlib
from typing import Any

import ml_collections

from ivx.errors import UserError


def examine(model: Any, options: ml_collections.ConfigDict, folder: pathlib.Path) -> dict:
    """Asks the agent and a single pass the same questions, with as many frames in the context.

    The agent searches labels that it makes by looking at every shot. The single pass does not have
    these, so the number of frames behind them is reported.

    Args:
      model: an `ivx.from_config.stored_model.StoredModel`; its config names the mixture.
      options: `split`, `questions` (0: all), `frames`, and `max_new_tokens` of a turn.
      folder: folder of traces, pages and predictions.

    Returns:
      mean scores `agent` and `single_pass`, `questions`, `frames`, `frames_labelled` (mean over
      questions) and the `page` of one trace.

    Raises:
      UserError: the agent could not answer any question.
    """
    from data_pipelines.views import VideoFile, ViewConfig
    from ivx import from_config
    from ivx.agent import evaluate, trace
    from ivx.agent.budget import Budget
    from ivx.agent.chat_model import SampledChatModel
    from ivx.evaluation import runner, scoring, store, text_only
    from ivx.parallel import devices
    from ivx.progress import note
    from ivx.reporting import trace_page

    config = model.config
    devices.configure_devices(config.mesh.cpu_devices)
    config.data.max_frames = options.frames
    [(_, samples)] = from_config.data.samples(config, (options.split,))
    samples = samples[: options.questions or None]
    rule = from_config.data.layout_rule(config)
    sampler, _ = from_config.inference.sampler(model, from_config.mesh.make(config))
    # Scores must not depend on the load of the machine.
    budget, view_config = Budget(frames=options.frames, seconds=math.inf), ViewConfig()

    def trace_folder(number: int) -> pathlib.Path:
        return pathlib.Path("traces") / f"{number:04d}"

    traced = []

    def keep(number: int, episode: Any) -> None:
        traced.append(number)
        (folder / trace_folder(number)).mkdir(parents=True, exist_ok=True)
        trace.write(folder / trace_folder(number) / trace.FILE, episode)
        question, truth = text_only.questions(samples[number])[-1]
        answer = scoring.Prediction("", "", question, truth, "", episode.answer.text)
        verdict = trace_page.Verdict(truth["answer"], scoring.score(answer))
        trace_page.write(folder / trace_folder(number), episode, verdict)

    askers = {}

    def asker_at(root: pathlib.Path) -> SampledChatModel:
        if root not in askers:
            askers[root] = SampledChatModel(rule, sampler, root, options.max_new_tokens, batch=32)
        return askers[root]

    predictions, skipped = evaluate.run(asker_at, samples, budget, view_config, keep)
    for sentence in skipped:
        note(f"skipped {sentence}")
    if len(skipped) == len(samples):
        raise UserError(f"the agent could not answer any question; the first: {skipped[0]}")
    single = runner.run(sampler, rule, samples, options.max_new_tokens, 32).predictions
    tables = {"agent": scoring.table(predictions), "single_pass": scoring.table(single)}
    for name, answers in (("agent", predictions), ("single_pass", single)):
        store.save(folder, name, answers, tables[name], ())
    print(scoring.render(tables["agent"], tables["single_pass"], baseline_name="single pass"))
    scores = [scoring.score(prediction) for prediction in predictions]
    best = max(traced, key=lambda number: scores[number])
    shots = [VideoFile("", sample.videos[0].resolved()).shots(view_config) for sample in samples]
    return {
        "agent": sum(scores) / len(samples),
        "single_pass": sum(scoring.score(prediction) for prediction in single) / len(samples),
        "questions": len(samples),
        "frames": options.frames,
        "frames_labelled": view_config.shot_frames * sum(map(len, shots)) / len(samples),
        "page": str(trace_folder(best) / trace_page.FILE),
    }
