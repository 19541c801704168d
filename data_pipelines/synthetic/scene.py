"""Scenes of coloured shapes over a drifting texture, rendered to frames.

A `Scene` is a list of `Actor`s on one background. Positions and sizes are fractions of the frame
and times are in seconds, so a scene can be rendered at any frame size and rate:

    frame(t) = background shifted by drift * t,
               then every actor with start <= t < end, drawn in order

Shapes: frames are uint8 [F_, height, width, 3], RGB.
"""

import dataclasses

import numpy as np

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 200, 60),
    "blue": (50, 80, 230),
    "yellow": (230, 220, 50),
    "white": (240, 240, 240),
    "purple": (160, 60, 200),
}
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}

# Size of the texture relative to the frame, so that it drifts without a visible seam.
_TEXTURE_SPAN = 2


@dataclasses.dataclass(frozen=True)
class Actor:
    """A shape with its position, motion, colours and time of appearance.

    Attributes:
      shape: a name in `SHAPES`.
      colours: names in `COLOURS`, shown in turn for equal parts of [start, end).
      centre: (x, y) at the time (start + end) / 2, as fractions of width and height.
      radius: half its size, as a fraction of the shorter side of the frame.
      start: first second at which it is visible.
      end: first second at which it is no longer visible.
      velocity: (dx, dy) in frame widths and heights per second.
    """

    shape: str
    colours: tuple[str, ...]
    centre: tuple[float, float]
    radius: float
    start: float
    end: float
    velocity: tuple[float, float] = (0.0, 0.0)

    def colour_at(self, time: float) -> str:
        """The colour at `time` seconds."""
        share = (time - self.start) / (self.end - self.start)
        return self.colours[min(int(share * len(self.colours)), len(self.colours) - 1)]

    def position_at(self, time: float) -> tuple[float, float]:
        """The centre (x, y) at `time` seconds, as fractions of width and height."""
        since_middle = time - (self.start + self.end) / 2
        return tuple(c + v * since_middle for c, v in zip(self.centre, self.velocity, strict=True))


@dataclasses.dataclass(frozen=True)
class Scene:
    """A clip as data.

    Attributes:
      duration: seconds.
      rate: frames per second.
      width: pixels.
      height: pixels.
      background_seed: seed of the texture and its drift.
      actors: the shapes, drawn in this order.
    """

    duration: float
    rate: int
    width: int
    height: int
    background_seed: int
    actors: tuple[Actor, ...]

    @property
    def num_frames(self) -> int:
        return round(self.duration * self.rate)


def render(scene: Scene) -> np.ndarray:
    """Renders every frame of the scene: uint8 [F_, height, width, 3]."""
    rng = np.random.default_rng(scene.background_seed)
    texture = _texture(rng, scene.height, scene.width)
    drift = rng.uniform(-0.04, 0.04, 2) * (scene.height, scene.width)
    frames = np.empty((scene.num_frames, scene.height, scene.width, 3), np.uint8)
    rows, columns = np.mgrid[: scene.height, : scene.width]
    for index in range(scene.num_frames):
        time = index / scene.rate
        top, left = np.round(drift * time).astype(int)
        frame = np.roll(texture, (top, left), (0, 1))[: scene.height, : scene.width].copy()
        for actor in scene.actors:
            if actor.start <= time < actor.end:
                x, y = actor.position_at(time)
                mask = _mask(
                    actor.shape,
                    columns - x * scene.width,
                    rows - y * scene.height,
                    actor.radius * min(scene.width, scene.height),
                )
                frame[mask] = COLOURS[actor.colour_at(time)]
        frames[index] = frame
    return frames


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A dim mottled texture that wraps around: uint8 [span * height, span * width, 3]."""
    tiles = np.zeros((_TEXTURE_SPAN * height, _TEXTURE_SPAN * width, 3))
    for cells, strength in ((4, 18), (16, 8)):
        coarse = rng.uniform(-strength, strength, (cells, cells, 3))
        row = np.arange(tiles.shape[0]) * cells // tiles.shape[0]
        column = np.arange(tiles.shape[1]) * cells // tiles.shape[1]
        tiles += coarse[row][:, column]
    tiles += rng.normal(0, 3, tiles.shape)
    return np.clip(tiles + rng.uniform(35, 75, 3), 0, 110).astype(np.uint8)


def _mask(shape: str, dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    """Mask of the pixels inside a shape, from their offsets to its centre: bool [height, width]."""
    if shape == "circle":
        return dx**2 + dy**2 <= radius**2
    if shape == "square":
        return (np.abs(dx) <= radius) & (np.abs(dy) <= radius)
    # The triangle points up; its width grows from 0 at -radius to 2 * radius at +radius.
    return (np.abs(dy) <= radius) & (np.abs(dx) <= (dy + radius) / 2)
