"""The agent's stage: its answers to questions about long videos, beside those of a single pass."""

import pathlib

from ivx.errors import UserError

PAGE = "trace.html"


def examine(model, mixture: str, asked, folder: pathlib.Path, single_pass) -> dict:
    """Asks both the same questions, with as many frames in the context.

    Args:
      model: an `ivx.build.stored.StoredModel`; its `max_frames` is the frames both may look at.
      mixture: mixture file.
      asked: `split` and `questions`.
      folder: for traces, pages and predictions.
      single_pass: `batch` and `max_new_tokens` of the single pass.

    Returns:
      mean scores `agent` and `single_pass`, `questions`, `frames` and the `page` of one trace.

    Raises:
      UserError: no question could be put.
    """
    from data_pipelines.views import Looks
    from ivx import build
    from ivx.agent import exam, trace
    from ivx.agent.asker import ModelAsker
    from ivx.agent.budget import Budget
    from ivx.evaluation import runner, scoring, store
    from ivx.parallel import start
    from ivx.reporting import trace_page

    config = model.config
    start.start(config.mesh.cpu_devices)
    config.data.mixture = mixture
    [(_, samples)] = build.samples(config, (asked.split,))
    samples = samples[: asked.questions or None]
    rule, (sampler, _) = build.layout_rule(config), build.sampler(model, build.mesh(config))
    budget = Budget(frames=config.data.max_frames)

    def keep(sample, episode) -> None:
        place = folder / "traces" / sample.id
        place.mkdir(parents=True, exist_ok=True)
        trace.write(place / trace.FILE, episode)
        trace_page.write(place, episode)

    askers = {}

    def asker_at(root: pathlib.Path) -> ModelAsker:
        if root not in askers:
            askers[root] = ModelAsker(rule, sampler, root, limit=96, batch=single_pass.batch)
        return askers[root]

    found, skipped = exam.take(asker_at, samples, budget, Looks(), keep)
    if not found:
        raise UserError(f"the agent could answer no question; the first: {skipped[0]}")
    outcome = runner.run(sampler, rule, samples, single_pass.max_new_tokens, single_pass.batch)
    rows = {"agent": scoring.table(found), "single_pass": scoring.table(outcome.predictions)}
    for name, predictions in (("agent", found), ("single_pass", outcome.predictions)):
        store.save(folder, name, predictions, rows[name], ())
    print(scoring.render(rows["agent"], rows["single_pass"]).replace("text only", "one pass "))
    means = {
        name: sum(scoring.score(p) for p in predictions) / len(predictions)
        for name, predictions in (("agent", found), ("single_pass", outcome.predictions))
    }
    right = [p for p in found if scoring.score(p) > 0.5] or found
    return means | {
        "questions": len(found),
        "frames": budget.frames,
        "page": str(pathlib.Path("traces") / right[0].sample_id / PAGE),
    }
