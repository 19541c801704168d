"""An agent's views of a long video: a sparse overview, equal shots, dense views of a span.

A view is a video item of the annotation format that shows a span of the file at a frame rate of its
own. Both the agent and the traces that it is trained on make their views here.

    overview   the whole video, few frames
    shots      |--------|--------|--------|-----|    equal spans, each labelled separately
    dense               |....|                       every frame at `dense_fps`, up to a bound
"""

import dataclasses

from data_pipelines.video.info import VideoInfo

Span = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class ViewConfig:
    """Frame counts and frame rates of an agent's views.

    Attributes:
      overview_frames: frames of the overview.
      shot_seconds: length of a shot; longer if a video would have more than `max_shots`.
      shot_frames: frames of a shot when it is labelled.
      max_shots: maximum shots per video.
      dense_fps: frames per second of a dense view.
      dense_frames: maximum frames of a dense view.
    """

    overview_frames: int = 8
    shot_seconds: float = 6.0
    shot_frames: int = 6
    max_shots: int = 512
    dense_fps: float = 2.0
    dense_frames: int = 12


@dataclasses.dataclass(frozen=True)
class VideoFile:
    """A video that an agent views.

    Attributes:
      url: its address in annotations, relative to the media root.
      info: size, frame rate and length.
    """

    url: str
    info: VideoInfo

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return self.info.num_frames / self.info.rate

    def overview(self, view_config: ViewConfig) -> dict:
        """The whole video in a few frames."""
        return self.item(fps=_fps(view_config.overview_frames, self.seconds))

    def shots(self, view_config: ViewConfig) -> list[Span]:
        """Cuts the video into equal shots; the last is 0.5 to 1.5 times as long as the others."""
        length = max(view_config.shot_seconds, self.seconds / view_config.max_shots)
        count = max(1, round(self.seconds / length))
        cuts = [round(index * length, 1) for index in range(count)]
        return list(zip(cuts, [*cuts[1:], round(self.seconds, 1)], strict=True))

    def shot_view(self, span: Span, view_config: ViewConfig) -> dict:
        """One shot, at the rate at which shots are labelled."""
        return self.item(span, _fps(view_config.shot_frames, span[1] - span[0]))

    def dense_view(self, span: Span, view_config: ViewConfig, max_frames: int) -> dict:
        """A span at `dense_fps`, or at the rate that gives the maximum count of frames."""
        max_frames = min(max_frames, view_config.dense_frames)
        return self.item(span, min(view_config.dense_fps, _fps(max_frames, span[1] - span[0])))

    def item(self, span: Span | None = None, fps: float | None = None) -> dict:
        """A video item of the annotation format."""
        video = {
            "url": self.url,
            "image_wh": [self.info.width, self.info.height],
            "origin_video_length": self.info.num_frames,
            "origin_fps": self.info.rate,
        }
        if span is not None:
            video["span"] = list(span)
        if fps is not None:
            video["fps"] = fps
        return {"type": "video_url", "video_url": video}


def _fps(count: int, seconds: float) -> float:
    """The rate that samples `count` frames in `seconds`; half a frame more, as rules round down."""
    return float(f"{(count + 0.5) / seconds:.6g}")
