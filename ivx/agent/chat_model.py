"""The agent's interface to a model: continues conversations.

A conversation is an annotation, {"messages": [...], "tools": [...]}. It uses the same layout rule,
template and sampler as training and chat.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from data_pipelines import sources
from data_pipelines.frame_cache import FrameCache, Pixels
from data_pipelines.layout import Layout, LayoutRule
from data_pipelines.media_error import MediaError
from ivx.errors import UserError
from ivx.sampling import sampler as sampling
from ivx.text import thinking
from ivx.text.chat_template import TemplateError

# Frames that stay in the context are then decoded only once.
_CACHE_BYTES = 2**28


@runtime_checkable
class ChatModel(Protocol):
    """A model that continues conversations."""

    def ask(self, conversations: Sequence[dict]) -> list[str]:
        """The next assistant turn of each conversation, independently of the others."""

    def count(self, conversation: dict) -> int:
        """Number of tokens of a conversation."""

    def frames(self, view: dict) -> tuple[int, ...]:
        """Display indices of the sampled frames of a video item.

        Raises:
          MediaError: no frame can be sampled.
        """


class SampledChatModel:
    """A `ChatModel` that decodes greedily with a sampler.

    Args:
      rule: lays out prompts.
      sampler: the model.
      root: folder of the videos.
      limit: maximum tokens of a turn.
      batch: conversations per batch.
      enable_thinking: how a turn with tools begins, see `ivx.text.chat_template`; shots are
        labelled without thinking.
    """

    def __init__(
        self,
        rule: LayoutRule,
        sampler: sampling.Sampler,
        root: pathlib.Path,
        limit: int,
        batch: int,
        enable_thinking: bool | None = None,
    ) -> None:
        self._rule, self._sampler, self._root = rule, sampler, root
        self._limit, self._batch, self._thinks = limit, batch, enable_thinking
        self._cache = FrameCache(_CACHE_BYTES)

    def ask(self, conversations: Sequence[dict]) -> list[str]:
        """The model's next turn in each conversation.

        Raises:
          UserError: a video cannot be read, or a text contains reserved tokens.
        """
        layouts = [self._layout(conversation, generate=True) for conversation in conversations]
        texts = [""] * len(layouts)

        def answer(indices: list[int]) -> None:
            batch = [layouts[index] for index in indices]
            pixels = [self._pixels(layout) for layout in batch]
            tokens = self._sampler.generate(batch, pixels, self._limit)
            for index, ids in zip(indices, tokens, strict=True):
                thinks = self._thinking(conversations[index])
                texts[index] = thinking.whole_turn(self._rule.tokenizer.decode(ids), thinks)

        sampling.run_in_batches(answer, layouts, self._batch)
        return texts

    def count(self, conversation: dict) -> int:
        """Number of tokens of a conversation.

        Raises:
          UserError: as `ask`.
        """
        return len(self._layout(conversation, generate=False).tokens)

    def frames(self, view: dict) -> tuple[int, ...]:
        """Display indices of the frames that the layout rule samples from a video item.

        Raises:
          MediaError: no frame can be sampled.
        """
        [video] = self._sample({"messages": [{"role": "user", "content": [view]}]}).videos
        return tuple(int(index) for index in self._rule.video_clip(video).indices)

    def _sample(self, conversation: dict) -> sources.Sample:
        return sources.parse_sample(conversation, "the agent's context", self._root)

    def _layout(self, conversation: dict, generate: bool) -> Layout:
        try:
            return self._rule.lay_out(
                self._sample(conversation), generate, self._thinking(conversation)
            )
        except (MediaError, TemplateError, sources.AnnotationError) as error:
            raise UserError(str(error)) from error

    def _thinking(self, conversation: dict) -> bool | None:
        return self._thinks if conversation.get("tools") else None

    def _pixels(self, layout: Layout) -> Pixels:
        """Patches of all clips, cached per clip: the context grows but its clips stay the same."""
        rows, grids = [], []
        try:
            for clip in layout.clips:
                clip_rows, clip_grids = self._cache.read(dataclasses.replace(layout, clips=(clip,)))
                rows += clip_rows
                grids += clip_grids
        except MediaError as error:
            raise UserError(str(error)) from error
        return rows, grids
