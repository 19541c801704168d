"""How an agent looks at a long video: a sparse overview, equal shots, dense views of a span.

Each view is a video item of the annotation format that shows a span of the file at a rate of its
own. The agent and the traces that it is trained on make their views here.

    overview   the whole video, few frames
    shots      |--------|--------|--------|-----|    equal spans, each labelled by itself
    dense               |....|                       every frame that the rate allows, up to a bound
"""

import dataclasses

from data_pipelines.video.info import VideoInfo

Span = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Looks:
    """How densely an agent looks.

    Attributes:
      overview_frames: of the whole video.
      shot_seconds: length of a shot; longer where there would be too many.
      shot_frames: frames of a shot when it is labelled.
      max_shots: most shots of a video.
      dense_fps: frames a second of a dense view.
      dense_frames: most frames of one.
    """

    overview_frames: int = 8
    shot_seconds: float = 6.0
    shot_frames: int = 6
    max_shots: int = 512
    dense_fps: float = 2.0
    dense_frames: int = 12


@dataclasses.dataclass(frozen=True)
class Footage:
    """A file to be viewed: its address in annotations, and what it is.

    Attributes:
      url: relative to the media root.
      info: size, rate and length.
    """

    url: str
    info: VideoInfo

    @property
    def seconds(self) -> float:
        """Length."""
        return self.info.num_frames / self.info.rate

    def overview(self, looks: Looks) -> dict:
        """The whole video at a glance."""
        return self.item(fps=_rate(looks.overview_frames, self.seconds))

    def shots(self, looks: Looks) -> list[Span]:
        """The whole video cut in equal shots, the last half to one and a half as long."""
        length = max(looks.shot_seconds, self.seconds / looks.max_shots)
        count = max(1, round(self.seconds / length))
        cuts = [round(number * length, 1) for number in range(count)]
        return list(zip(cuts, [*cuts[1:], round(self.seconds, 1)], strict=True))

    def shot(self, span: Span, looks: Looks) -> dict:
        """One shot, as it is labelled."""
        return self.item(span, _rate(looks.shot_frames, span[1] - span[0]))

    def dense(self, span: Span, looks: Looks, most: int) -> dict:
        """A span at full rate, or as densely as `looks` and `most` frames allow."""
        most = min(most, looks.dense_frames)
        rate = min(looks.dense_fps, _rate(most, span[1] - span[0]))
        return self.item(span, rate)

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


def _rate(count: int, seconds: float) -> float:
    """A rate at which `seconds` give `count` frames; half a frame more, as the rule rounds down."""
    return float(f"{(count + 0.5) / seconds:.6g}")
