"""How a sample will lie in a sequence, from its text and the sizes of its media, none yet decoded.

So the length of a sample is known without its pixels, packing can be planned, and training,
evaluation and chat share one code for frames, sizes, times, template and positions.

    Sample --(FrameRule, PixelBudget)--> Clip per video --(chat template, tokenizer)--> Layout
           --(PixelBudget)-------------> Clip per image

An image is a clip of one slice, whose two frames are the same picture.
"""

import dataclasses

import numpy as np

from data_pipelines import media
from data_pipelines.media import ImageRef, VideoRef
from data_pipelines.media_error import MediaError
from data_pipelines.positions import positions_3d
from data_pipelines.sources.sample import Overrides, Sample
from data_pipelines.video import frames, patches, resize
from data_pipelines.video.info import VideoInfo
from data_pipelines.video.limits import USUAL_LIMITS, Limits, Meter
from ivx.text import chat_template
from ivx.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video or an image as it will be seen: which frames, at which size.

    Attributes:
      path: the file, or what else `media` reads.
      info: what the file is said to be.
      indices: int64 [F_], display indices of the frames to read.
      times: float64 [F_ / 2], seconds at the middle of each slice; 0 for an image, and without
        meaning where `info` has no rate.
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
        times = self.times if self.info.timed else [None] * len(self.times)
        return chat_template.video_text(times, tokens)

    def read(self, meter: Meter | None = None) -> np.ndarray:
        """Decodes and resizes: uint8 [F_, height, width, 3]; `meter` is that of the sample.

        Raises:
          MediaError: the file cannot be decoded.
        """
        return np.stack(self._pictures(meter))

    def read_slices(self, meter: Meter | None = None) -> list[np.ndarray]:
        """Decodes to the patches of each slice: uint8 [p, 1536] each.

        A frame is let go when its patches are made, so that a long video is held once, not twice.

        Raises:
          MediaError: the file cannot be decoded.
        """
        pictures = self._pictures(meter)[::-1]
        slices = []
        while pictures:
            pair = np.stack([pictures.pop() for _ in range(frames.FRAMES_PER_SLICE)])
            slices.append(patches.patchify(pair)[0])
        return slices

    def _pictures(self, meter: Meter | None) -> list[np.ndarray]:
        """The frames, uint8 [height, width, 3] each."""
        meter = meter or Meter(USUAL_LIMITS)
        if self.still:
            picture = media.read_image(self.path, self.info, meter.limits)
            picture = resize.resize_frame(picture, self.height, self.width)
            return [picture] * len(self.indices)
        return media.read_video(
            self.path,
            self.info,
            self.indices,
            lambda frame: resize.resize_frame(frame, self.height, self.width),
            meter,
        )


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
            slices = clip.read_slices(meter)
            rows.extend(slices)
            grids.extend([patches.patch_grid(*clip.patch_shape)] * len(slices))
        return rows, grids


@dataclasses.dataclass(frozen=True)
class LayoutRule:
    """Everything that decides how samples lie: tokenizer, frame sampling and pixel budgets.

    Attributes:
      tokenizer: of the text.
      frame_rule: how videos are sampled.
      budget: of a whole video.
      image_budget: of one image, by default that of Qwen3-VL.
      rand_max_frames: most frames of a video whose rate is not known, or whose frames were chosen
        before at a rate that `fps` does not divide.
      number_media: whether videos and images are numbered, "Video 1: ", "Picture 1: ".
      limits: on what files may ask for.
    """

    tokenizer: Tokenizer
    frame_rule: frames.FrameRule
    budget: resize.PixelBudget
    image_budget: resize.PixelBudget = resize.QWEN3_VL_IMAGES
    rand_max_frames: int = 24
    number_media: bool = False
    limits: Limits = USUAL_LIMITS

    def under(self, overrides: Overrides | None) -> "LayoutRule":
        """The rule as a data set changes it.

        Raises:
          ValueError: bounds that cross each other.
        """
        if overrides is None:
            return self

        def either(value, other):
            return other if value is None else value

        o, rule = overrides, self.frame_rule
        changed = frames.FrameRule(
            either(o.fps, rule.fps),
            either(o.video_min_frames, rule.min_frames),
            either(o.video_max_frames, rule.max_frames),
        )
        if changed.min_frames > changed.max_frames:
            raise ValueError(
                f"video_min_frames = {changed.min_frames} exceeds video_max_frames ="
                f" {changed.max_frames}"
            )
        return dataclasses.replace(
            self,
            frame_rule=changed,
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

    def clip(self, video: VideoRef) -> Clip:
        """Chooses frames and size for one video.

        Raises:
          MediaError: the video cannot be probed or does not fit the budget.
        """
        info = video.resolved(self.limits)
        rule = self.frame_rule
        if video.fps is not None:
            rule = dataclasses.replace(rule, fps=video.fps)
        elif not info.timed or (video.processed_fps and info.rate % rule.fps):
            # Every frame there is, up to the bound; the doubled rate leaves no room for rounding.
            rule = frames.FrameRule(2 * info.rate, 1, self.rand_max_frames)
        if video.span and not info.timed:
            raise MediaError(f"{video.path}: frames without a rate have no span in seconds")
        try:
            indices = frames.frame_indices(info, rule, video.span)
            height, width = resize.resized_shape(len(indices), info.height, info.width, self.budget)
        except MediaError as error:
            raise MediaError(f"{video.path}: {error}") from error
        if video.times is None:
            times = frames.slice_times(indices, info.rate)
        elif len(video.times) != info.num_frames:
            raise MediaError(
                f"{video.path}: {info.num_frames} frames, but {len(video.times)} in"
                " frames_timestamp"
            )
        else:
            times = frames.slice_times(np.asarray(video.times)[indices], 1.0)
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
        if sample.overrides is not None:
            plain = dataclasses.replace(sample, overrides=None)
            return self.under(sample.overrides)(plain, generate, enable_thinking)
        videos = [self.clip(video) for video in sample.videos]
        images = [self.still(image) for image in sample.images]
        pieces = chat_template.render(
            sample.messages,
            self._texts(videos, "Video"),
            generate,
            sample.tools,
            enable_thinking,
            self._texts(images, "Picture"),
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

    def _texts(self, clips: list[Clip], name: str) -> list[str]:
        """What stands for each of them, after its number where they are numbered."""
        return [
            (f"{name} {number}: " if self.number_media else "") + clip.text
            for number, clip in enumerate(clips, 1)
        ]
