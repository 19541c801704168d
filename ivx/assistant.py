"""A trained model that answers questions about videos: what `ivx.load` returns."""

import pathlib

from data_pipelines.frame_cache import FrameCache
from data_pipelines.layout import Clip, LayoutRule
from data_pipelines.sources import Sample, VideoRef
from data_pipelines.video.info import VideoError
from ivx.errors import UserError
from ivx.sampling.sampler import Sampler
from ivx.text.chat_template import VIDEO_PLACEHOLDER, TemplateError

# So that a second question about a video need not decode it again.
_CACHE_BYTES = 2**28


class Assistant:
    """Answers greedily; frames, size, times and template are those of training.

    Args:
      rule: how prompts are laid out.
      sampler: the model.
    """

    def __init__(self, rule: LayoutRule, sampler: Sampler):
        self._rule, self._sampler = rule, sampler
        self._cache = FrameCache(_CACHE_BYTES)

    def look(self, video: str | pathlib.Path) -> Clip:
        """How a video will be seen: frames, times and size.

        Raises:
          UserError: the file cannot be read as a video.
        """
        try:
            return self._rule.clip(VideoRef(str(video), None))
        except VideoError as error:
            raise UserError(str(error)) from error

    def generate(
        self,
        video: str | pathlib.Path,
        prompt: str,
        max_new_tokens: int = 64,
        enable_thinking: bool | None = None,
    ) -> str:
        """The answer to one question about one video.

        With `enable_thinking` the prompt opens a thought, which the answer goes on with and closes
        by </think>; with False it holds an empty one; None leaves it to the model.

        Raises:
          UserError: the file cannot be read, or the prompt holds reserved tokens.
        """
        user = {"role": "user", "content": VIDEO_PLACEHOLDER + prompt}
        sample = Sample("prompt", (user,), (VideoRef(str(video), None),))
        try:
            layout = self._rule(sample, generate=True, enable_thinking=enable_thinking)
            pixels = self._cache.read(layout)
        except (VideoError, TemplateError) as error:
            raise UserError(str(error)) from error
        [tokens] = self._sampler.generate([layout], [pixels], max_new_tokens)
        return self._rule.tokenizer.decode(tokens)
