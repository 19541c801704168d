"""Puts every question of a data set to the agent, one episode each."""

import pathlib
from collections.abc import Callable, Sequence

import tqdm

from data_pipelines.media_error import MediaError
from data_pipelines.sources import Sample
from data_pipelines.views import Footage, Looks
from ivx.agent import loop
from ivx.agent.asker import Asker
from ivx.agent.budget import Budget
from ivx.agent.context import Episode
from ivx.errors import UserError
from ivx.evaluation import text_only
from ivx.evaluation.scoring import Prediction


def take(
    asker_at: Callable[[pathlib.Path], Asker],
    samples: Sequence[Sample],
    budget: Budget,
    looks: Looks,
    keep: Callable[[int, Episode], None],
) -> tuple[list[Prediction], list[str]]:
    """Answers each sample's question about its video.

    Args:
      asker_at: the model, for videos in a folder.
      samples: one video and one question with its truth each.
      budget: of every episode.
      looks: how densely to look.
      keep: told every episode, with the number of its question.

    Returns:
      predictions in the order of the samples, and a sentence for each that could not be put.
    """
    predictions, skipped = [], []
    for sample in tqdm.tqdm(samples, "agent", unit=" questions", mininterval=1.0):
        question, truth = text_only.questions(sample)[-1]
        path = pathlib.Path(sample.videos[0].path)
        try:
            footage = Footage(path.name, sample.videos[0].resolved())
            asker = asker_at(path.parent)
            episode = loop.run(asker, footage, question, loop.TOOLS, budget, looks, str(path))
        except (UserError, MediaError) as error:
            # Counted as unanswered, so that two models are compared on the same questions.
            skipped.append(f"sample {sample.id}: {error}")
            text = ""
        else:
            keep(len(predictions), episode)
            text = episode.answer.text
        predictions.append(Prediction(sample.id, truth["family"], question, truth, str(path), text))
    return predictions, skipped
