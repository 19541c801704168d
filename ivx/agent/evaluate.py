"""Runs the agent on every question of a data set, one episode each."""

import pathlib
from collections.abc import Callable, Sequence

from data_pipelines.media_error import MediaError
from data_pipelines.sources import Sample
from data_pipelines.views import VideoFile, ViewConfig
from ivx import progress
from ivx.agent import loop
from ivx.agent.budget import Budget
from ivx.agent.chat_model import ChatModel
from ivx.agent.context import Episode
from ivx.errors import UserError
from ivx.evaluation import text_only
from ivx.evaluation.scoring import Prediction


def run(
    model_at: Callable[[pathlib.Path], ChatModel],
    samples: Sequence[Sample],
    budget: Budget,
    view_config: ViewConfig,
    keep: Callable[[int, Episode], None],
) -> tuple[list[Prediction], list[str]]:
    """Answers each sample's question about its video.

    Args:
      model_at: from a folder of videos to the model.
      samples: each has one video and one question with its truth.
      budget: of each episode.
      view_config: how densely frames are sampled.
      keep: called with the index and the episode of every answered question.

    Returns:
      Predictions in the order of the samples, and the reason for each question that failed.
    """
    predictions, skipped = [], []
    for sample in progress.track(samples, len(samples), "agent", "questions"):
        question, truth = text_only.questions(sample)[-1]
        path = pathlib.Path(sample.videos[0].path)
        try:
            video_file = VideoFile(path.name, sample.videos[0].resolved())
            model = model_at(path.parent)
            episode = loop.run(
                model, video_file, question, loop.TOOLS, budget, view_config, str(path)
            )
        except (UserError, MediaError) as error:
            # Counts as unanswered, so all models are compared on the same questions.
            skipped.append(f"sample {sample.id}: {error}")
            text = ""
        else:
            keep(len(predictions), episode)
            text = episode.answer.text
        predictions.append(Prediction(sample.id, truth["family"], question, truth, str(path), text))
    return predictions, skipped
