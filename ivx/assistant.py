"""A trained model that answers questions about videos and images: what `ivx.load` returns."""

import pathlib
from collections.abc import Sequence

from data_pipelines.frame_cache import FrameCache
from data_pipelines.layout import Layout, LayoutRule
from data_pipelines.media import ImageRef, VideoRef
from data_pipelines.media_error import MediaError
from data_pipelines.sources import Sample
from ivx.errors import UserError
from ivx.sampling.sampler import Sampler
from ivx.text.chat_template import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, TemplateError

# So that a second question about a video need not decode it again.
_CACHE_BYTES = 2**28

File = str | pathlib.Path


def question(prompt: str, video: File | None, images: Sequence[File]) -> Sample:
    """A prompt about files: the images first, then the video, then the words."""
    videos = [video] if video else []
    shown = IMAGE_PLACEHOLDER * len(images) + VIDEO_PLACEHOLDER * len(videos)
    return Sample(
        "prompt",
        ({"role": "user", "content": shown + prompt},),
        tuple(VideoRef(str(path), None) for path in videos),
        images=tuple(ImageRef(str(path), None) for path in images),
    )


class Assistant:
    """Answers greedily; frames, sizes, times and template are those of training.

    Args:
      rule: how prompts are laid out.
      sampler: the model.
    """

    def __init__(self, rule: LayoutRule, sampler: Sampler):
        self._rule, self._sampler = rule, sampler
        self._cache = FrameCache(_CACHE_BYTES)

    def look(
        self,
        video: File | None,
        prompt: str = "",
        images: Sequence[File] = (),
        enable_thinking: bool | None = None,
    ) -> Layout:
        """How a prompt will be seen; its clips have the frames, times and sizes of the files.

        Raises:
          UserError: as `generate`.
        """
        try:
            asked = question(prompt, video, images)
            return self._rule(asked, generate=True, enable_thinking=enable_thinking)
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

        With `enable_thinking` the prompt opens a thought, which the answer goes on with and closes
        by </think>; with False it holds an empty one; None leaves it to the model.

        Raises:
          UserError: a file cannot be read, or the prompt holds reserved tokens.
        """
        layout = self.look(video, prompt, images, enable_thinking)
        try:
            pixels = self._cache.read(layout)
        except MediaError as error:
            raise UserError(str(error)) from error
        [tokens] = self._sampler.generate([layout], [pixels], max_new_tokens)
        return self._rule.tokenizer.decode(tokens)
