"""How a sample will lie in a sequence, from its text and the sizes of its media, none yet decoded.

So the length of a sample is known without its pixels, packing can be planned, and training,
evaluation and chat share one code for frames, sizes, times, template and positions.

    Sample --(FrameRule, PixelBudget)--> Clip per video --(chat template, tokenizer)--> Layout
           --(PixelBudget)-------------> Clip per image

An image is a clip of one slice, whose two frames are the same picture.
"""

import dataclasses

import numpy as np

from data_pipelines.image import decode as image_decode
from data_pipelines.media import ImageRef, VideoRef
from data_pipelines.media_error import MediaError
from data_pipelines.positions import positions_3d
from data_pipelines.sources import Sample
from data_pipelines.video import decode, frames, patches, resize
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import USUAL_LIMITS, Limits, Meter
from ivx.text import chat_template
from ivx.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video or an image as it will be seen: which frames, at which size.

    Attributes:
      path: the file.
      info: what the file is said to be.
      indices: int64 [F_], display indices of the frames to read.
      times: float64 [F_ / 2], seconds at the middle of each slice; 0 for an image.
      height: pixels after resizing, a multiple of 32.
      width: likewise.
      still: whether it is an image.
    """

    path: str
    info: VideoInfo
    indices: np.ndarray
    times: np.ndarray
    height: int
    width: int
    still: bool = False

    @property
    def patch_shape(self) -> tuple[int, int]:
        """Rows and columns of patches in a slice."""
        return self.height // resize.PATCH, self.width // resize.PATCH

    @property
    def token_shape(self) -> tuple[int, int]:
        """Rows and columns of merged tokens in a slice."""
        return self.height // resize.FACTOR, self.width // resize.FACTOR

    @property
    def text(self) -> str:
        """What stands for it in a conversation."""
        tokens = int(np.prod(self.token_shape))
        if self.still:
            return chat_template.image_text(tokens)
        return chat_template.video_text(self.times, tokens)

    def read(self, meter: Meter | None = None) -> np.ndarray:
        """Decodes and resizes: uint8 [F_, height, width, 3]; `meter` is that of the sample.

        Raises:
          MediaError: the file cannot be decoded.
        """
        meter = meter or Meter(USUAL_LIMITS)
        if self.still:
            picture = image_decode.read(self.path, self.info, meter.limits)
            picture = resize.resize_frame(picture, self.height, self.width)
            return np.stack([picture] * len(self.indices))
        pictures = decode.read_frames(
            self.path,
            self.info,
            self.indices,
            lambda frame: resize.resize_frame(frame, self.height, self.width),
            meter,
        )
        return np.stack(pictures)


@dataclasses.dataclass(frozen=True)
class Layout:
    """A sample as tokens, its pixels still to come.

    Attributes:
      sample_id: for messages.
      tokens: int32 [T].
      trained: bool [T], true where predicting this token bears loss.
      positions: int32 [3, T].
      is_visual: bool [T], true where a merged visual token goes.
      clips: the videos and images, in the order of their tokens.
      limits: on the work of reading them all.
    """

    sample_id: str
    tokens: np.ndarray
    trained: np.ndarray
    positions: np.ndarray
    is_visual: np.ndarray
    clips: tuple[Clip, ...]
    limits: Limits = USUAL_LIMITS

    @property
    def slice_sizes(self) -> list[int]:
        """Patches in each slice, in order."""
        return [
            rows * columns
            for clip in self.clips
            for rows, columns in [clip.patch_shape] * len(clip.times)
        ]

    def read_patches(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Decodes every slice: their patches, uint8 [p, 1536] each, and grids, int32 [p, 4] each.

        Raises:
          MediaError: a file cannot be decoded.
        """
        rows, grids, meter = [], [], Meter(self.limits)
        for clip in self.clips:
            slices = patches.patchify(clip.read(meter))
            rows.extend(slices)
            grids.extend([patches.patch_grid(*clip.patch_shape)] * len(slices))
        return rows, grids


@dataclasses.dataclass(frozen=True)
class LayoutRule:
    """Everything that decides how samples lie: tokenizer, frame sampling and pixel budgets.

    `budget` is of a whole video, `image_budget` of one image, by default that of Qwen3-VL; `limits`
    are on what files may ask for.
    """

    tokenizer: Tokenizer
    frame_rule: frames.FrameRule
    budget: resize.PixelBudget
    image_budget: resize.PixelBudget = resize.QWEN3_VL_IMAGES
    limits: Limits = USUAL_LIMITS

    def clip(self, video: VideoRef) -> Clip:
        """Chooses frames and size for one video.

        Raises:
          MediaError: the video cannot be probed or does not fit the budget.
        """
        info = video.resolved(self.limits)
        rule = self.frame_rule
        if video.fps is not None:
            rule = dataclasses.replace(rule, fps=video.fps)
        try:
            indices = frames.frame_indices(info, rule, video.span)
            height, width = resize.resized_shape(len(indices), info.height, info.width, self.budget)
        except MediaError as error:
            raise MediaError(f"{video.path}: {error}") from error
        times = frames.slice_times(indices, info.rate)
        return Clip(video.path, info, indices, times, height, width)

    def still(self, image: ImageRef) -> Clip:
        """Chooses the size for one image.

        Raises:
          MediaError: the image cannot be probed, or is too long for its width.
        """
        info = image.resolved(self.limits)
        try:
            height, width = resize.still_shape(info.height, info.width, self.image_budget)
        except MediaError as error:
            raise MediaError(f"{image.path}: {error}") from error
        indices = np.zeros(frames.FRAMES_PER_SLICE, np.int64)
        return Clip(image.path, info, indices, np.zeros(1), height, width, still=True)

    def __call__(
        self, sample: Sample, generate: bool = False, enable_thinking: bool | None = None
    ) -> Layout:
        """Lays out a sample; `generate` ends it with an open assistant turn.

        `enable_thinking` says how that turn begins, see `ivx.text.chat_template`.

        Raises:
          MediaError: a video or an image cannot be used.
          TemplateError: the messages cannot be rendered.
        """
        videos = [self.clip(video) for video in sample.videos]
        images = [self.still(image) for image in sample.images]
        pieces = chat_template.render(
            sample.messages,
            [clip.text for clip in videos],
            generate,
            sample.tools,
            enable_thinking,
            [clip.text for clip in images],
        )
        waiting = {
            chat_template.VIDEO_PLACEHOLDER: iter(videos),
            chat_template.IMAGE_PLACEHOLDER: iter(images),
        }
        order = chat_template.placeholders(sample.messages)
        clips = tuple(next(waiting[placeholder]) for placeholder in order)
        tokens, trained = [], []
        for piece in pieces:
            ids = self.tokenizer.encode(piece.text)
            tokens += ids
            trained += [piece.trained] * len(ids)
        tokens = np.asarray(tokens, np.int32)
        is_visual = np.isin(tokens, (self.tokenizer.video_pad, self.tokenizer.image_pad))
        shapes = [clip.token_shape for clip in clips for _ in clip.times]
        positions = positions_3d(is_visual, shapes)
        bears_loss = np.asarray(trained, bool)
        return Layout(sample.id, tokens, bears_loss, positions, is_visual, clips, self.limits)
