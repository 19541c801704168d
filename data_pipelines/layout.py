"""The layout of a sample in a sequence, from its text and the sizes of its media; decodes nothing.

The length of a sample is therefore known without its pixels, and packing can be planned. Training,
evaluation and chat share this code for frames, sizes, times, chat template and positions.

    Sample --(FrameRule, PixelBudget)--> Clip per video --(chat template, tokenizer)--> Layout
           --(PixelBudget)-------------> Clip per image

An image is a clip of one slice that holds the same picture twice.

Shapes: T tokens, F_ frames, p patches of a slice.
"""

import dataclasses
from typing import Any

import numpy as np

from data_pipelines import media
from data_pipelines.media import ImageRef, VideoRef
from data_pipelines.media_error import MediaError
from data_pipelines.positions import positions_3d
from data_pipelines.sources.overrides import Overrides
from data_pipelines.sources.sample import Sample
from data_pipelines.video import frames, patches, resize
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import USUAL_LIMITS, Limits, Meter
from ivx.text import chat_template
from ivx.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Clip:
    """The frames of a video or an image that the model sees, and their size.

    Attributes:
      path: a file, or any other address that `media` reads.
      info: size, rate and length that the file is expected to have.
      indices: int64 [F_], display indices of the frames to read, see `on_show`.
      times: float64 [F_ / 2], seconds at the middle of each slice; 0 for an image, and meaningless
        if `info` is not timed.
      height: pixels after resizing, a multiple of 32.
      width: pixels after resizing, a multiple of 32.
      still: whether it is an image.
      on_show: whether the indices count frames at the constant rate of `info`, so that the frames
        on show at these times are read, see `video.frames`. Otherwise they count frames of the
        file, to which an annotation refers one by one.
    """

    path: str
    info: VideoInfo
    indices: np.ndarray
    times: np.ndarray
    height: int
    width: int
    still: bool = False
    on_show: bool = False

    @property
    def patch_shape(self) -> tuple[int, int]:
        """Rows and columns of patches in a slice."""
        return self.height // resize.PATCH, self.width // resize.PATCH

    @property
    def token_shape(self) -> tuple[int, int]:
        """Rows and columns of merged tokens in a slice."""
        return self.height // resize.FACTOR, self.width // resize.FACTOR

    @property
    def held_bytes(self) -> int:
        """Bytes of its patches, which are in memory together."""
        return int(np.prod(self.patch_shape)) * len(self.times) * patches.ROW

    @property
    def text(self) -> str:
        """The text of the clip in a conversation, with its vision tokens."""
        tokens = int(np.prod(self.token_shape))
        if self.still:
            return chat_template.image_text(tokens)
        times = self.times if self.info.timed else [None] * len(self.times)
        return chat_template.video_text(times, tokens)

    def read(self, meter: Meter | None = None) -> np.ndarray:
        """Decodes and resizes the frames: uint8 [F_, height, width, 3].

        Args:
          meter: counts the work of decoding the sample against its limits.

        Raises:
          MediaError: the file cannot be decoded.
        """
        return np.stack(self.pictures(meter))

    def read_slices(self, meter: Meter | None = None) -> list[np.ndarray]:
        """Decodes the patches of each slice: uint8 [p, 1536] each.

        A frame is freed once its patches are made, so that a long video is in memory only once.

        Raises:
          MediaError: the file cannot be decoded.
        """
        pictures = self.pictures(meter)[::-1]
        slices = []
        while pictures:
            pair = np.stack([pictures.pop() for _ in range(frames.FRAMES_PER_SLICE)])
            slices.append(patches.patchify(pair)[0])
        return slices

    def pictures(self, meter: Meter | None = None) -> list[np.ndarray]:
        """Decodes and resizes a picture per index: uint8 [height, width, 3] each.

        Raises:
          MediaError: the file cannot be decoded.
        """
        meter = meter or Meter(USUAL_LIMITS)
        if self.still:
            shape = self.height, self.width
            picture = media.read_image(self.path, self.info, meter.limits, shape)
            return [picture] * len(self.indices)
        return media.read_video(
            self.path,
            self.info,
            self.indices,
            lambda frame: resize.resize_frame(frame, self.height, self.width),
            meter,
            self.on_show,
        )


@dataclasses.dataclass(frozen=True)
class Layout:
    """The tokens of a sample, and the clips whose pixels are still to be decoded.

    Attributes:
      sample_id: for messages.
      tokens: int32 [T].
      trained: bool [T], true where predicting this token bears loss.
      positions: int32 [3, T].
      is_visual: bool [T], true at merged visual tokens.
      clips: the videos and images, in the order of their tokens.
      limits: on the work of decoding all clips.
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
        """Count of patches of each slice, in order."""
        return [
            rows * columns
            for clip in self.clips
            for rows, columns in [clip.patch_shape] * len(clip.times)
        ]

    def read_patches(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Decodes the patches, uint8 [p, 1536], and the grid, int32 [p, 4], of every slice.

        Raises:
          MediaError: a file cannot be decoded.
        """
        rows, grids, meter = [], [], Meter(self.limits)
        for clip in self.clips:
            slices = clip.read_slices(meter)
            rows.extend(slices)
            grids.extend([patches.patch_grid(*clip.patch_shape)] * len(slices))
        return rows, grids


@dataclasses.dataclass(frozen=True)
class LayoutRule:
    """Every setting that determines layouts: tokenizer, frame sampling and pixel budgets.

    Attributes:
      tokenizer: of the text.
      frame_rule: how densely videos are sampled.
      budget: T * H * W of a video.
      image_budget: H * W of an image; the default is that of Qwen3-VL.
      rand_max_frames: maximum frames of a video whose rate is unknown, or whose frames were
        extracted beforehand at a rate that `fps` does not divide.
      number_media: whether videos and images are numbered, "Video 1: ", "Picture 1: ".
      limits: on the size of files and the work of decoding them.
    """

    tokenizer: Tokenizer
    frame_rule: frames.FrameRule
    budget: resize.PixelBudget
    image_budget: resize.PixelBudget = resize.QWEN3_VL_IMAGES
    rand_max_frames: int = 24
    number_media: bool = False
    limits: Limits = USUAL_LIMITS

    def with_overrides(self, overrides: Overrides | None) -> "LayoutRule":
        """The rule with the settings that a data set overrides.

        Raises:
          ValueError: a minimum exceeds its maximum.
        """
        if overrides is None:
            return self

        def either(override: Any, default: Any) -> Any:
            return default if override is None else override

        o, rule = overrides, self.frame_rule
        frame_rule = frames.FrameRule(
            either(o.fps, rule.fps),
            either(o.video_min_frames, rule.min_frames),
            either(o.video_max_frames, rule.max_frames),
        )
        if frame_rule.min_frames > frame_rule.max_frames:
            raise ValueError(
                f"video_min_frames = {frame_rule.min_frames} exceeds video_max_frames ="
                f" {frame_rule.max_frames}"
            )
        return dataclasses.replace(
            self,
            frame_rule=frame_rule,
            budget=resize.PixelBudget(
                either(o.video_min_total_pixels, self.budget.min_pixels),
                either(o.video_max_total_pixels, self.budget.max_pixels),
            ),
            image_budget=resize.PixelBudget(
                either(o.min_pixels, self.image_budget.min_pixels),
                either(o.max_pixels, self.image_budget.max_pixels),
            ),
            rand_max_frames=either(o.rand_video_max_frames, self.rand_max_frames),
            number_media=either(o.add_vision_id, self.number_media),
        )

    def video_clip(self, video: VideoRef) -> Clip:
        """Chooses the frames and the size of a video.

        Raises:
          MediaError: the video cannot be probed, or does not fit the budget.
        """
        info = video.resolved(self.limits)
        rule = self.frame_rule
        if video.fps is not None:
            rule = dataclasses.replace(rule, fps=video.fps)
        elif not info.timed or (video.processed_fps and info.rate % rule.fps):
            # Every frame, up to the maximum. The doubled rate makes sure that none is rounded away.
            rule = frames.FrameRule(2 * info.rate, 1, self.rand_max_frames)
        if video.span and not info.timed:
            raise MediaError(f"{video.path}: has a span in seconds, but no frame rate")
        try:
            indices = frames.frame_indices(info, rule, video.span)
            height, width = resize.resized_shape(len(indices), info.height, info.width, self.budget)
        except MediaError as error:
            raise MediaError(f"{video.path}: {error}") from error
        if video.times is None:
            times = frames.slice_times(indices, info.rate)
        elif len(video.times) != info.num_frames:
            raise MediaError(
                f"{video.path}: {info.num_frames} frames, but {len(video.times)} times in"
                " frames_timestamp"
            )
        else:
            times = frames.slice_times(np.asarray(video.times)[indices], 1.0)
        on_show = not video.times and not video.processed_fps
        return Clip(video.path, info, indices, times, height, width, on_show=on_show)

    def image_clip(self, image: ImageRef) -> Clip:
        """Chooses the size of an image.

        Raises:
          MediaError: the image cannot be probed, or its aspect ratio is too large.
        """
        info = image.resolved(self.limits)
        try:
            height, width = resize.still_shape(info.height, info.width, self.image_budget)
        except MediaError as error:
            raise MediaError(f"{image.path}: {error}") from error
        indices = np.zeros(frames.FRAMES_PER_SLICE, np.int64)
        return Clip(image.path, info, indices, np.zeros(1), height, width, still=True)

    def lay_out(
        self, sample: Sample, generate: bool = False, enable_thinking: bool | None = None
    ) -> Layout:
        """Lays out a sample.

        Args:
          sample: messages, and references to its videos and images.
          generate: end with an open assistant turn, as a prompt does.
          enable_thinking: how that turn begins, see `ivx.text.chat_template`.

        Raises:
          MediaError: a video or an image cannot be used.
          TemplateError: the messages cannot be rendered.
        """
        if sample.overrides is not None:
            try:
                rule = self.with_overrides(sample.overrides)
            except ValueError as error:
                raise MediaError(str(error)) from error
            sample = dataclasses.replace(sample, overrides=None)
            return rule.lay_out(sample, generate, enable_thinking)
        videos = [self.video_clip(video) for video in sample.videos]
        images = [self.image_clip(image) for image in sample.images]
        gib = sum(clip.held_bytes for clip in videos + images) / 2**30
        if gib > self.limits.held_gib:
            raise MediaError(
                f"its {len(videos + images)} videos and images take {gib:.1f} GiB after resizing;"
                f" at most {self.limits.held_gib:g} are allowed",
                "byte limit",
            )
        pieces = chat_template.render(
            sample.messages,
            self._texts(videos, "Video"),
            generate,
            sample.tools,
            enable_thinking,
            self._texts(images, "Picture"),
        )
        clips_by_placeholder = {
            chat_template.VIDEO_PLACEHOLDER: iter(videos),
            chat_template.IMAGE_PLACEHOLDER: iter(images),
        }
        order = chat_template.placeholders(sample.messages)
        clips = tuple(next(clips_by_placeholder[placeholder]) for placeholder in order)
        tokens, trained = [], []
        for piece in pieces:
            try:
                ids = self.tokenizer.encode(piece.text, piece.plain)
            except ValueError as error:
                raise chat_template.TemplateError(f"a text of {error}") from error
            tokens += ids
            trained += [piece.trained] * len(ids)
        tokens = np.asarray(tokens, np.int32)
        is_visual = np.isin(tokens, (self.tokenizer.video_pad, self.tokenizer.image_pad))
        shapes = [clip.token_shape for clip in clips for _ in clip.times]
        positions = positions_3d(is_visual, shapes)
        trained = np.asarray(trained, bool)
        return Layout(sample.id, tokens, trained, positions, is_visual, clips, self.limits)

    def _texts(self, clips: list[Clip], name: str) -> list[str]:
        """The text of each clip, after its number if media are numbered."""
        return [
            (f"{name} {number}: " if self.number_media else "") + clip.text
            for number, clip in enumerate(clips, 1)
        ]
