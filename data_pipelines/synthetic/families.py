"""Families of questions; each is a function that generates a scene and its questions and answers.

    family          scene                                  question -> answers
    attribute       one shape, 2-3 s                       What colour is the shape? -> six colours
                                                           Which shape is it? -> three shapes
    counting        1 to 4 shapes, 2-3 s                   How many shapes are there? -> 1, 2, 3, 4
    motion          one moving shape, 3-4 s                Which way does the shape move? -> left,
                                                           right, up, down; and the attributes
    order           three colours, 2 s each                Which colour is seen first, second,
                                                           last? -> six colours
    grounding       one shape, visible 4-8 s of 8-16 s     When is the shape visible? -> a span;
                                                           and the attributes
    long_grounding  one shape, visible 4-12 s of 20-32 s   as grounding
    needle          one shape, visible 1/8 of 30-120 s     What appears once in the video?
                                                           -> eighteen pairs of colour and shape
    long_needle     one shape, visible 4-5 s of 60-120 s   as needle; a few frames often miss it
    caption         two shapes, one after another, 4 s     Describe the video in one sentence.
                                                           -> colour, shape and direction of both

Within a scene, answers are drawn independently of each other and of the wording of the questions,
so neither the text nor an earlier turn reveals an answer.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from data_pipelines.synthetic.scene import COLOURS, DIRECTIONS, SHAPES, Actor, Scene


@dataclasses.dataclass(frozen=True)
class Question:
    """A question whose answer is known by construction.

    Attributes:
      family: the name of its family.
      text: the question in its open-ended form.
      answer: the correct answer as it is written in the data.
      values: all answers that were equally likely; empty if multiple choice makes no sense.
      span: (start, end) in seconds for temporal grounding.
      thought: the reasoning that may precede the answer.
    """

    family: str
    text: str
    answer: str
    values: tuple[str, ...] = ()
    span: tuple[float, float] | None = None
    thought: str = ""


# (width, height) of short clips, and of clips long enough that a pixel budget shrinks them.
_SMALL = ((64, 64), (64, 64), (96, 64), (64, 96), (80, 80))
_LARGE = ((64, 64), (96, 96), (128, 96), (96, 128))
_RATES = (4, 5, 8)


def generate(family: str, rng: np.random.Generator) -> tuple[Scene, list[Question]]:
    """Returns a scene of the family and its questions, in random order.

    Raises:
      KeyError: the family does not exist.
    """
    scene, questions = FAMILIES[family](rng)
    return scene, [questions[i] for i in rng.permutation(len(questions))]


def _scene(
    rng: np.random.Generator,
    duration: float,
    actors: list[Actor],
    sizes: tuple[tuple[int, int], ...] = _SMALL,
    rates: tuple[int, ...] = _RATES,
) -> Scene:
    width, height = sizes[rng.integers(len(sizes))]
    return Scene(
        duration, int(rng.choice(rates)), width, height, int(rng.integers(2**31)), tuple(actors)
    )


def _pick(rng: np.random.Generator, names: Iterable[str], count: int = 1) -> list[str]:
    """Draws `count` distinct names uniformly."""
    return [str(name) for name in rng.permutation(list(names))[:count]]


def _centres(
    rng: np.random.Generator, count: int, columns: int, rows: int
) -> list[tuple[float, float]]:
    """Draws `count` centres in distinct cells of a grid, jittered around the cell centres."""
    cells = rng.permutation(columns * rows)[:count]
    jitter = rng.uniform(-0.12, 0.12, (count, 2))
    return [
        ((cell % columns + 0.5 + dx) / columns, (cell // columns + 0.5 + dy) / rows)
        for cell, (dx, dy) in zip(cells, jitter, strict=True)
    ]


def _attribute_questions(shape: str, colour: str) -> list[Question]:
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
    centre = _centres(rng, 1, 1, 1)[0]
    actor = Actor(shape, (colour,), centre, rng.uniform(0.22, 0.3), 0.0, duration, _drift(rng))
    return _scene(rng, duration, [actor]), _attribute_questions(shape, colour)


def _drift(rng: np.random.Generator) -> tuple[float, float]:
    """A velocity too small to count as motion."""
    dx, dy = rng.uniform(-0.02, 0.02, 2)
    return float(dx), float(dy)


def _counting(rng: np.random.Generator) -> tuple[Scene, list[Question]]:
    duration = float(rng.integers(2, 4))
    count = int(rng.integers(1, 5))
    actors = [
        Actor(
            _pick(rng, SHAPES)[0],
            (_pick(rng, COLOURS)[0],),
            centre,
            rng.uniform(0.13, 0.17),
            0.0,
            duration,
            _drift(rng),
        )
        for centre in _centres(rng, count, 2, 2)
    ]
    question = Question(
        "counting",
        "How many shapes are there?",
        str(count),
        ("1", "2", "3", "4"),
        thought=f"There are {count} shapes.",
    )
    return _scene(rng, duration, actors), [question]


def _moving_actor(
    rng: np.random.Generator,
    shape: str,
    colour: str,
    direction: str,
    start: float,
    end: float,
    lane: float,
) -> Actor:
    """A shape that crosses the middle of the frame; `lane` is the coordinate that stays fixed."""
    dx, dy = DIRECTIONS[direction]
    # Slow enough that the shape overlaps itself between frames one second apart.
    speed = rng.uniform(0.11, 0.17)
    centre = (0.5, lane) if dx else (lane, 0.5)
    return Actor(
        shape, (colour,), centre, rng.uniform(0.18, 0.23), start, end, (dx * speed, dy * speed)
    )


def _motion(rng: np.random.Generator) -> tuple[Scene, list[Question]]:
    duration = float(rng.integers(3, 5))
    shape, colour, direction = (_pick(rng, names)[0] for names in (SHAPES, COLOURS, DIRECTIONS))
    lane = float(rng.uniform(0.25, 0.75))
    actor = _moving_actor(rng, shape, colour, direction, 0.0, duration, lane)
    question = Question(
        "motion",
        "Which way does the shape move?",
        direction,
        tuple(DIRECTIONS),
        thought=f"A {colour} {shape} moves {direction}.",
    )
    return _scene(rng, duration, [actor]), [question, *_attribute_questions(shape, colour)]


def _order(rng: np.random.Generator) -> tuple[Scene, list[Question]]:
    length = 2.0
    colours = tuple(_pick(rng, COLOURS)[0] for _ in range(3))
    if rng.random() < 0.5:  # one shape that changes its colour
        centre = _centres(rng, 1, 2, 2)[0]
        actors = [Actor(_pick(rng, SHAPES)[0], colours, centre, 0.22, 0.0, 3 * length)]
    else:  # one shape after another
        actors = [
            Actor(
                _pick(rng, SHAPES)[0],
                (colour,),
                _centres(rng, 1, 2, 2)[0],
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
    return _temporal_grounding(rng, "grounding", int(rng.integers(4, 9)), 4)


def _long_grounding(rng: np.random.Generator) -> tuple[Scene, list[Question]]:
    return _temporal_grounding(rng, "long_grounding", int(rng.integers(10, 17)), 6)


def _temporal_grounding(
    rng: np.random.Generator, family: str, slices: int, max_visible: int
) -> tuple[Scene, list[Question]]:
    """One shape in a video of 2 * `slices` seconds, visible for 2 to `max_visible` slices."""
    # Times are even seconds: at one frame per second a slice lasts two, so a shape that starts
    # with a slice can be timed exactly.
    duration = 2 * slices
    length = 2 * int(rng.integers(2, max_visible + 1))
    start = 2 * int(rng.integers(0, (duration - length) // 2 + 1))
    span = (float(start), float(start + length))
    shape, colour = _pick(rng, SHAPES)[0], _pick(rng, COLOURS)[0]
    centre = _centres(rng, 1, 1, 1)[0]
    actor = Actor(shape, (colour,), centre, rng.uniform(0.22, 0.3), *span, _drift(rng))
    times = f"{span[0]:.1f} to {span[1]:.1f} seconds"
    question = Question(
        family,
        "When is the shape visible?",
        times,
        span=span,
        thought=f"The shape is seen from {times}.",
    )
    questions = [question, *_attribute_questions(shape, colour)]
    return _scene(rng, float(duration), [actor], _LARGE), questions


def _needle(rng: np.random.Generator) -> tuple[Scene, list[Question]]:
    duration = float(rng.integers(30, 121))
    return _single_appearance(rng, "needle", duration, duration / 8)


def _long_needle(rng: np.random.Generator) -> tuple[Scene, list[Question]]:
    duration = float(rng.integers(60, 121))
    return _single_appearance(rng, "long_needle", duration, float(rng.uniform(4, 5)))


def _single_appearance(
    rng: np.random.Generator, family: str, duration: float, length: float
) -> tuple[Scene, list[Question]]:
    """A shape that is visible for `length` seconds of a video of `duration` seconds."""
    shape, colour = _pick(rng, SHAPES)[0], _pick(rng, COLOURS)[0]
    start = float(rng.uniform(0, duration - length))
    actor = Actor(shape, (colour,), _centres(rng, 1, 1, 1)[0], 0.28, start, start + length)
    values = tuple(f"{c} {s}" for c in COLOURS for s in SHAPES)
    question = Question(
        family,
        "What appears once in the video?",
        f"{colour} {shape}",
        values,
        thought=f"A {colour} {shape} is seen from {start:.1f} to {start + length:.1f} seconds.",
    )
    return _scene(rng, duration, [actor], _LARGE, rates=(2,)), [question]


def _caption(rng: np.random.Generator) -> tuple[Scene, list[Question]]:
    length = 2.0
    actors, events = [], []
    for i in range(2):
        shape, colour, direction = (_pick(rng, names)[0] for names in (SHAPES, COLOURS, DIRECTIONS))
        lane = float(rng.uniform(0.35, 0.65))
        start, end = i * length, (i + 1) * length
        actors.append(_moving_actor(rng, shape, colour, direction, start, end, lane))
        events.append(f"a {colour} {shape} moves {direction}")
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
