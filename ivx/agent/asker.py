"""Who is asked: anything that goes on with conversations, and the model that does.

A conversation is an annotation, {"messages": [...], "tools": [...]}, and goes through the layout
rule, the template and the sampler that training and chat use.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Protocol

from data_pipelines import sources
from data_pipelines.frame_cache import FrameCache
from data_pipelines.layout import Layout, LayoutRule
from data_pipelines.media_error import MediaError
from ivx.errors import UserError
from ivx.sampling import sampler as sampling
from ivx.text import thinking
from ivx.text.chat_template import TemplateError

# So that frames that stay in the context are decoded once.
_CACHE_BYTES = 2**28


class Asker(Protocol):
    """Goes on with conversations."""

    def ask(self, conversations: Sequence[dict]) -> list[str]:
        """What an assistant says next in each of them, apart from each other."""

    def count(self, conversation: dict) -> int:
        """Tokens of a conversation."""

    def frames(self, view: dict) -> tuple[int, ...]:
        """Display indices of the frames that are shown of a video item.

        Raises:
          MediaError: it shows none.
        """


class ModelAsker:
    """The model; answers greedily.

    Args:
      rule: how prompts are laid out.
      sampler: the model.
      root: folder of the videos.
      limit: tokens that a turn may have.
      batch: conversations at a time.
      enable_thinking: how a turn with tools begins, see `ivx.text.chat_template`; labels of shots
        are asked for without.
    """

    def __init__(
        self,
        rule: LayoutRule,
        sampler: sampling.Sampler,
        root: pathlib.Path,
        limit: int,
        batch: int,
        enable_thinking: bool | None = None,
    ):
        self._rule, self._sampler, self._root = rule, sampler, root
        self._limit, self._batch, self._thinks = limit, batch, enable_thinking
        self._cache = FrameCache(_CACHE_BYTES)

    def ask(self, conversations: Sequence[dict]) -> list[str]:
        """What the model says next in each.

        Raises:
          UserError: a video cannot be read, or a text holds reserved tokens.
        """
        layouts = [self._layout(conversation, generate=True) for conversation in conversations]
        texts = [""] * len(layouts)

        def answer(indices: list[int]) -> None:
            asked = [layouts[index] for index in indices]
            pixels = [self._pixels(layout) for layout in asked]
            tokens = self._sampler.generate(asked, pixels, self._limit)
            for index, ids in zip(indices, tokens, strict=True):
                thinks = self._thinking(conversations[index])
                texts[index] = thinking.whole_turn(self._rule.tokenizer.decode(ids), thinks)

        sampling.run_in_batches(answer, layouts, self._batch)
        return texts

    def count(self, conversation: dict) -> int:
        """Tokens of a conversation.

        Raises:
          UserError: as `ask`.
        """
        return len(self._layout(conversation, generate=False).tokens)

    def frames(self, view: dict) -> tuple[int, ...]:
        """Display indices of the frames that the layout rule takes of a video item.

        Raises:
          MediaError: it shows none.
        """
        [video] = self._sample({"messages": [{"role": "user", "content": [view]}]}).videos
        return tuple(int(index) for index in self._rule.clip(video).indices)

    def _sample(self, conversation: dict) -> sources.Sample:
        return sources.sample(conversation, "the agent's context", self._root)

    def _layout(self, conversation: dict, generate: bool) -> Layout:
        try:
            return self._rule(self._sample(conversation), generate, self._thinking(conversation))
        except (MediaError, TemplateError, sources.AnnotationError) as error:
            raise UserError(str(error)) from error

    def _thinking(self, conversation: dict) -> bool | None:
        return self._thinks if conversation.get("tools") else None

    def _pixels(self, layout: Layout) -> tuple[list, list]:
        """Patches of all its clips, each kept by itself: the context grows, its clips stay."""
        rows, grids = [], []
        try:
            for clip in layout.clips:
                some_rows, some_grids = self._cache.read(dataclasses.replace(layout, clips=(clip,)))
                rows += some_rows
                grids += some_grids
        except MediaError as error:
            raise UserError(str(error)) from error
        return rows, grids
