"""The agent's stage: its answers to questions about long videos, beside those of a single pass."""

import math
import pathlib

from ivx.errors import UserError


def examine(model, asked, folder: pathlib.Path) -> dict:
    """Asks both the same questions, with as many frames in the context.

    The labels that the agent searches come from a look at every shot by itself, which the single
    pass does not have: the frames of that are reported beside.

    Args:
      model: an `ivx.build.stored.StoredModel`; its config names the mixture.
      asked: `split`, `questions` (0: all), `frames`, and `max_new_tokens` of a turn.
      folder: for traces, pages and predictions.

    Returns:
      mean scores `agent` and `single_pass`, `questions`, `frames`, `frames_labelled` (mean over
      questions) and the `page` of one trace.

    Raises:
      UserError: the agent could answer no question.
    """
    from data_pipelines.views import Footage, Looks
    from ivx import build
    from ivx.agent import exam, trace
    from ivx.agent.asker import ModelAsker
    from ivx.agent.budget import Budget
    from ivx.evaluation import runner, scoring, store
    from ivx.parallel import start
    from ivx.reporting import trace_page
    from ivx.training.progress import note

    config = model.config
    start.start(config.mesh.cpu_devices)
    config.data.max_frames = asked.frames
    [(_, samples)] = build.samples(config, (asked.split,))
    samples = samples[: asked.questions or None]
    rule, (sampler, _) = build.layout_rule(config), build.sampler(model, build.mesh(config))
    # Scores must not depend on how busy the machine is.
    budget, looks = Budget(frames=asked.frames, seconds=math.inf), Looks()

    def place(number: int) -> pathlib.Path:
        return pathlib.Path("traces") / f"{number:04d}"

    shown = []

    def keep(number: int, episode) -> None:
        shown.append(number)
        (folder / place(number)).mkdir(parents=True, exist_ok=True)
        trace.write(folder / place(number) / trace.FILE, episode)
        trace_page.write(folder / place(number), episode)

    askers = {}

    def asker_at(root: pathlib.Path) -> ModelAsker:
        if root not in askers:
            askers[root] = ModelAsker(rule, sampler, root, asked.max_new_tokens, batch=32)
        return askers[root]

    found, skipped = exam.take(asker_at, samples, budget, looks, keep)
    for sentence in skipped:
        note(f"skipped {sentence}")
    if len(skipped) == len(samples):
        raise UserError(f"the agent could answer no question; the first: {skipped[0]}")
    alone = runner.run(sampler, rule, samples, asked.max_new_tokens, 32).predictions
    tables = {"agent": scoring.table(found), "single_pass": scoring.table(alone)}
    for name, predictions in (("agent", found), ("single_pass", alone)):
        store.save(folder, name, predictions, tables[name], ())
    print(scoring.render(tables["agent"], tables["single_pass"], beside_name="single pass"))
    points = [scoring.score(prediction) for prediction in found]
    best = max(shown, key=lambda number: points[number])
    shots = [Footage("", one.videos[0].resolved()).shots(looks) for one in samples]
    return {
        "agent": sum(points) / len(samples),
        "single_pass": sum(scoring.score(prediction) for prediction in alone) / len(samples),
        "questions": len(samples),
        "frames": asked.frames,
        "frames_labelled": looks.shot_frames * sum(map(len, shots)) / len(samples),
        "page": str(place(best) / trace_page.FILE),
    }
