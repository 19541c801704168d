"""Seven families of questions, each a function that invents a scene in which the answers are known.

Within one scene the answers are drawn independently of each other and of the wording of the
questions, so that neither the text nor an earlier turn gives an answer away. What must be seen:

    attribute  the colour of a shape, which shape it is
    counting   how many shapes there are
    motion     which way a shape goes
    order      which colour comes first, second, last
    grounding  from when to when a shape is visible
    needle     what shows up once in a long video
    caption    one sentence about two moving shapes

`long_grounding` and `long_needle` are harder kinds of their families: videos twice as long, and a
needle seen so shortly that a look at few frames often misses it. Scenes of motion and grounding
show one shape, whose attributes can be asked for as well.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from data_pipelines.synthetic.scene import COLOURS, DIRECTIONS, SHAPES, Actor, Scene


@dataclasses.dataclass(frozen=True)
class Question:
    """One question with its answer, known by construction.

    Attributes:
      family: what must be seen to answer.
      text: the question as asked openly.
      answer: the right answer as it is written in the data.
      values: all answers that were equally likely; empty where a choice between options makes no
        sense.
      span: (start, end) in seconds for temporal grounding.
      thought: what a careful viewer would say before answering.
    """

    family: str
    text: str
    answer: str
    values: tuple[str, ...] = ()
    span: tuple[float, float] | None = None
    thought: str = ""


# (width, height) of short clips, and of those long enough that a pixel budget scales them down.
_SMALL = ((64, 64), (64, 64), (96, 64), (64, 96), (80, 80))
_LARGE = ((64, 64), (96, 96), (128, 96), (96, 128))
_RATES = (4, 5, 8)


def invent(family: str, rng: np.random.Generator) -> tuple[Scene, list[Question]]:
    """A scene of the family with its questions, in random order.

    Raises:
      KeyError: there is no such family.
    """
    scene, questions = FAMILIES[family](rng)
    return scene, [questions[i] for i in rng.permutation(len(questions))]


def _scene(
    rng: np.random.Generator, duration: float, actors: list[Actor], sizes=_SMALL, rates=_RATES
) -> Scene:
    width, height = sizes[rng.integers(len(sizes))]
    return Scene(
        duration, int(rng.choice(rates)), width, height, int(rng.integers(2**31)), tuple(actors)
    )


def _pick(rng: np.random.Generator, names, count: int = 1) -> list[str]:
    """`count` different names, uniformly."""
    return [str(name) for name in rng.permutation(list(names))[:count]]


def _places(
    rng: np.random.Generator, count: int, columns: int, rows: int
) -> list[tuple[float, float]]:
    """`count` centres in different cells of a grid, each a little off the middle of its cell."""
    cells = rng.permutation(columns * rows)[:count]
    jitter = rng.uniform(-0.12, 0.12, (count, 2))
    return [
        ((cell % columns + 0.5 + dx) / columns, (cell // columns + 0.5 + dy) / rows)
        for cell, (dx, dy) in zip(cells, jitter, strict=True)
    ]


def _of_the_shape(shape: str, colour: str) -> list[Question]:
    """Questions about the only shape of a scene."""
    return [
        Question(
            "attribute",
            "What colour is the shape?",
            colour,
            tuple(COLOURS),
            thought=f"A {colour} {shape} is seen.",
        ),
        Question(
            "attribute", "Which shape is it?", shape, SHAPES, thought=f"A {colour} {shape} is seen."
        ),
    ]


def _attribute(rng: np.random.Generator) -> tuple[Scene, list[Question]]:
    duration = float(rng.integers(2, 4))
    shape, colour = _pick(rng, SHAPES)[0], _pick(rng, COLOURS)[0]
    place = _places(rng, 1, 1, 1)[0]
    actor = Actor(shape, (colour,), place, rng.uniform(0.22, 0.3), 0.0, duration, _drift(rng))
    return _scene(rng, duration, [actor]), _of_the_shape(shape, colour)


def _drift(rng: np.random.Generator) -> tuple[float, float]:
    """A velocity too small to be called a motion."""
    dx, dy = rng.uniform(-0.02, 0.02, 2)
    return float(dx), float(dy)


def _counting(rng: np.random.Generator) -> tuple[Scene, list[Question]]:
    duration = float(rng.integers(2, 4))
    count = int(rng.integers(1, 5))
    actors = [
        Actor(
            _pick(rng, SHAPES)[0],
            (_pick(rng, COLOURS)[0],),
            place,
            rng.uniform(0.13, 0.17),
            0.0,
            duration,
            _drift(rng),
        )
        for place in _places(rng, count, 2, 2)
    ]
    question = Question(
        "counting",
        "How many shapes are there?",
        str(count),
        ("1", "2", "3", "4"),
        thought=f"There are {count} shapes.",
    )
    return _scene(rng, duration, actors), [question]


def _mover(
    rng: np.random.Generator,
    shape: str,
    colour: str,
    direction: str,
    start: float,
    end: float,
    lane: float,
):
    """A shape that goes through the middle of the frame; `lane` is its other coordinate."""
    dx, dy = DIRECTIONS[direction]
    # Slow enough that it overlaps itself from one frame to the next, a second later.
    speed = rng.uniform(0.11, 0.17)
    centre = (0.5, lane) if dx else (lane, 0.5)
    return Actor(
        shape, (colour,), centre, rng.uniform(0.18, 0.23), start, end, (dx * speed, dy * speed)
    )


def _motion(rng: np.random.Generator) -> tuple[Scene, list[Question]]:
    duration = float(rng.integers(3, 5))
    shape, colour, way = (_pick(rng, names)[0] for names in (SHAPES, COLOURS, DIRECTIONS))
    lane = float(rng.uniform(0.25, 0.75))
    actor = _mover(rng, shape, colour, way, 0.0, duration, lane)
    question = Question(
        "motion",
        "Which way does the shape move?",
        way,
        tuple(DIRECTIONS),
        thought=f"A {colour} {shape} moves {way}.",
    )
    return _scene(rng, duration, [actor]), [question, *_of_the_shape(shape, colour)]


def _order(rng: np.random.Generator) -> tuple[Scene, list[Question]]:
    length = 2.0
    colours = tuple(_pick(rng, COLOURS)[0] for _ in range(3))
    if rng.random() < 0.5:  # one shape that changes its colour
        place = _places(rng, 1, 2, 2)[0]
        actors = [Actor(_pick(rng, SHAPES)[0], colours, place, 0.22, 0.0, 3 * length)]
    else:  # one shape after another
        actors = [
            Actor(
                _pick(rng, SHAPES)[0],
                (colour,),
                _places(rng, 1, 2, 2)[0],
                0.22,
                i * length,
                (i + 1) * length,
            )
            for i, colour in enumerate(colours)
        ]
    questions = [
        Question(
            "order",
            f"Which colour is seen {rank}?",
            colour,
            tuple(COLOURS),
            thought=f"The colours are {', '.join(colours)}.",
        )
        for rank, colour in zip(("first", "second", "last"), colours, strict=True)
    ]
    return _scene(rng, 3 * length, actors), questions


def _grounding(rng: np.random.Generator) -> tuple[Scene, list[Question]]:
    return _spanned(rng, "grounding", int(rng.integers(4, 9)), 4)


def _long_grounding(rng: np.random.Generator) -> tuple[Scene, list[Question]]:
    return _spanned(rng, "long_grounding", int(rng.integers(10, 17)), 6)


def _spanned(
    rng: np.random.Generator, family: str, slices: int, longest: int
) -> tuple[Scene, list[Question]]:
    """One shape in a video of 2 * `slices` seconds, visible for 2 to `longest` slices."""
    # Even seconds: at one frame a second a slice lasts two, and what starts with one can be read
    # off its time.
    duration = 2 * slices
    length = 2 * int(rng.integers(2, longest + 1))
    start = 2 * int(rng.integers(0, (duration - length) // 2 + 1))
    span = (float(start), float(start + length))
    shape, colour = _pick(rng, SHAPES)[0], _pick(rng, COLOURS)[0]
    place = _places(rng, 1, 1, 1)[0]
    actor = Actor(shape, (colour,), place, rng.uniform(0.22, 0.3), *span, _drift(rng))
    times = f"{span[0]:.1f} to {span[1]:.1f} seconds"
    question = Question(
        family,
        "When is the shape visible?",
        times,
        span=span,
        thought=f"The shape is seen from {times}.",
    )
    questions = [question, *_of_the_shape(shape, colour)]
    return _scene(rng, float(duration), [actor], _LARGE), questions


def _needle(rng: np.random.Generator) -> tuple[Scene, list[Question]]:
    duration = float(rng.integers(30, 121))
    return _once(rng, "needle", duration, duration / 8)


def _long_needle(rng: np.random.Generator) -> tuple[Scene, list[Question]]:
    return _once(rng, "long_needle", float(rng.integers(60, 121)), float(rng.uniform(4, 5)))


def _once(
    rng: np.random.Generator, family: str, duration: float, length: float
) -> tuple[Scene, list[Question]]:
    """A shape that is visible for `length` seconds of a video of `duration`."""
    shape, colour = _pick(rng, SHAPES)[0], _pick(rng, COLOURS)[0]
    start = float(rng.uniform(0, duration - length))
    actor = Actor(shape, (colour,), _places(rng, 1, 1, 1)[0], 0.28, start, start + length)
    things = tuple(f"{c} {s}" for c in COLOURS for s in SHAPES)
    question = Question(
        family,
        "What appears once in the video?",
        f"{colour} {shape}",
        things,
        thought=f"A {colour} {shape} is seen from {start:.1f} to {start + length:.1f} seconds.",
    )
    return _scene(rng, duration, [actor], _LARGE, rates=(2,)), [question]


def _caption(rng: np.random.Generator) -> tuple[Scene, list[Question]]:
    length = 2.0
    actors, events = [], []
    for i in range(2):
        shape, colour, way = (_pick(rng, names)[0] for names in (SHAPES, COLOURS, DIRECTIONS))
        lane = float(rng.uniform(0.35, 0.65))
        actors.append(_mover(rng, shape, colour, way, i * length, (i + 1) * length, lane))
        events.append(f"a {colour} {shape} moves {way}")
    sentence = ", then ".join(events).capitalize() + "."
    question = Question("caption", "Describe the video in one sentence.", sentence)
    return _scene(rng, 2 * length, actors), [question]


FAMILIES: dict[str, Callable[[np.random.Generator], tuple[Scene, list[Question]]]] = {
    "attribute": _attribute,
    "counting": _counting,
    "motion": _motion,
    "order": _order,
    "grounding": _grounding,
    "needle": _needle,
    "caption": _caption,
    "long_grounding": _long_grounding,
    "long_needle": _long_needle,
}
