"""Answers questions about videos and images with a trained model: what `ivx.load` returns."""

import pathlib
from collections.abc import Sequence

from data_pipelines.frame_cache import FrameCache
from data_pipelines.layout import Layout, LayoutRule
from data_pipelines.media import ImageRef, VideoRef
from data_pipelines.media_error import MediaError
from data_pipelines.sources import Sample
from ivx import local_files, progress
from ivx.errors import UserError
from ivx.sampling.sampler import Sampler
from ivx.text.chat_template import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, TemplateError

# A second question about a video then needs no second decode.
_CACHE_BYTES = 2**28

File = str | pathlib.Path


def question(prompt: str, video: File | None, images: Sequence[File]) -> Sample:
    """A user turn: the images first, then the video, then the text.

    Raises:
      UserError: a file is an address on the network.
    """
    for file in [*images, *([video] if video else [])]:
        local_files.check(str(file))
    videos = [video] if video else []
    placeholders = IMAGE_PLACEHOLDER * len(images) + VIDEO_PLACEHOLDER * len(videos)
    return Sample(
        "prompt",
        ({"role": "user", "content": placeholders + prompt},),
        tuple(VideoRef(str(path), None) for path in videos),
        images=tuple(ImageRef(str(path), None) for path in images),
    )


class Assistant:
    """Answers greedily, with the frames, sizes, timestamps and template of training.

    Args:
      rule: lays out prompts.
      sampler: the model.
    """

    def __init__(self, rule: LayoutRule, sampler: Sampler) -> None:
        self._rule, self._sampler = rule, sampler
        self._cache = FrameCache(_CACHE_BYTES)

    def look(
        self,
        video: File | None,
        prompt: str = "",
        images: Sequence[File] = (),
        enable_thinking: bool | None = None,
    ) -> Layout:
        """The layout of a prompt; its clips hold the sampled frames, timestamps and sizes.

        Raises:
          UserError: as `generate`.
        """
        try:
            sample = question(prompt, video, images)
            return self._rule.lay_out(sample, generate=True, enable_thinking=enable_thinking)
        except (MediaError, TemplateError) as error:
            raise UserError(str(error)) from error

    def generate(
        self,
        video: File | None,
        prompt: str,
        max_new_tokens: int = 64,
        enable_thinking: bool | None = None,
        images: Sequence[File] = (),
    ) -> str:
        """The answer to one question about images, a video, both or neither.

        Args:
          video: path of a video, if any.
          prompt: the question.
          max_new_tokens: limit of the answer.
          enable_thinking: True opens a thought, which the answer continues and closes with
            </think>; False inserts an empty thought; None leaves it to the model.
          images: paths of images.

        Raises:
          UserError: a file cannot be read, or the prompt contains reserved tokens.
        """
        layout = self.look(video, prompt, images, enable_thinking)
        try:
            pixels = self._cache.read(layout)
        except MediaError as error:
            raise UserError(str(error)) from error
        with progress.waiting("answering"):
            [tokens] = self._sampler.generate([layout], [pixels], max_new_tokens)
        return self._rule.tokenizer.decode(tokens)
