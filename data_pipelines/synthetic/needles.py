"""Long videos with needles: shapes on show for a few seconds, and what each view of them shows.

|------------------|needle|------------------------------|    one and a half to three minutes
x       x       x       x       x       x       x       x    overview: seldom meets it
|-----|-----|-----|-----|-----|-----|-----|-----|-----|--|    shots: one or two of them show it
"""

import dataclasses

import numpy as np

from data_pipelines.synthetic.families import Question
from data_pipelines.synthetic.scene import COLOURS, SHAPES, Actor, Scene
from data_pipelines.video import frames
from data_pipelines.video.info import VideoInfo
from data_pipelines.views import Footage, Looks, Span
from ivx.text import agent_texts
from ivx.text.labels import NOTHING, Label

# Families of questions: what appears once, which colour a shape has, when a thing is visible.
ONCE, COLOUR, WHEN = FAMILIES = ("agent_once", "agent_colour", "agent_when")
THINGS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
_SIZES = ((64, 64), (96, 96), (128, 96), (96, 128))
# Share of scenes whose overview may meet a needle.
_EASY = 0.4
# How often labels go wrong, and how often such a mistake is likely to mislead.
_WRONG_THING, _FALSE_FIND, _MISLEADING = 0.4, 0.4, 0.7


@dataclasses.dataclass(frozen=True)
class Task:
    """A question about the first actor of a scene.

    Attributes:
      question: with its true answer; its family is one of `FAMILIES`.
      query: the words to search for.
    """

    question: Question
    query: str

    def answer_by(self, label: Label) -> str:
        """What a label alone lets one answer."""
        return {
            ONCE: label.text,
            COLOUR: label.text.split()[0],
            WHEN: agent_texts.seconds(label.span),
        }[self.question.family]


@dataclasses.dataclass(frozen=True)
class Film:
    """A scene as footage.

    Attributes:
      scene: its first actor is what is asked for.
      footage: the file that the scene will be drawn to.
      looks: how densely it is looked at.
    """

    scene: Scene
    footage: Footage
    looks: Looks

    @property
    def sought(self) -> Actor:
        """The needle asked for."""
        return self.scene.actors[0]

    def dense(self, span: Span) -> dict:
        """A dense view of a span."""
        return self.footage.dense(span, self.looks, self.looks.dense_frames)

    def shown(self, view: dict) -> list[Actor]:
        """Actors on any frame that is sampled of a view, in order of time."""
        video = view["video_url"]
        rule = frames.FrameRule(video["fps"], min_frames=2, max_frames=64)
        times = frames.frame_indices(self.footage.info, rule, video.get("span")) / self.scene.rate
        seen = [a for a in self.scene.actors if ((a.start <= times) & (times < a.end)).any()]
        return sorted(seen, key=lambda actor: actor.start)

    def labels(self) -> list[Label]:
        """What is truly on show in every shot."""
        found = []
        for span in self.footage.shots(self.looks):
            seen = self.shown(self.footage.shot(span, self.looks))
            found.append(Label(span, thing(seen[0]) if seen else NOTHING))
        return found


def invent(rng: np.random.Generator, url: str, looks: Looks) -> tuple[Film, Task]:
    """A scene that will be drawn to `url`, and a question about it, of any family alike."""
    family = str(rng.choice(FAMILIES))
    while True:
        scene = _scene(rng, needles=1 if family == ONCE else 2)
        info = VideoInfo(scene.num_frames, float(scene.rate), scene.width, scene.height)
        film = Film(scene, Footage(url, info), looks)
        if _is_fair(film, family, easy=bool(rng.random() < _EASY)):
            return film, _task(family, film.sought)


def thing(actor: Actor) -> str:
    """What an actor is called."""
    return f"{actor.colours[0]} {actor.shape}"


def mistaken(rng: np.random.Generator, labels: list[Label]) -> list[Label]:
    """Labels as a poor observer writes them: a thing called another, or seen where nothing is."""
    labels = list(labels)
    told = [number for number, label in enumerate(labels) if label.text != NOTHING]
    empty = [number for number, label in enumerate(labels) if label.text == NOTHING]
    if rng.random() < _WRONG_THING:
        number = int(rng.choice(told))
        colour, shape = labels[number].text.split()
        if rng.random() < _MISLEADING:
            colour = str(rng.choice([name for name in COLOURS if name != colour]))
        else:
            shape = str(rng.choice([name for name in SHAPES if name != shape]))
        labels[number] = Label(labels[number].span, f"{colour} {shape}")
    if rng.random() < _FALSE_FIND:
        number = int(rng.choice(empty))
        alike = rng.random() < _MISLEADING
        text = labels[int(rng.choice(told))].text if alike else str(rng.choice(THINGS))
        labels[number] = Label(labels[number].span, text)
    return labels


def _scene(rng: np.random.Generator, needles: int) -> Scene:
    duration = int(rng.integers(90, 181))
    colours, shapes = rng.permutation(list(COLOURS)), rng.permutation(SHAPES)
    actors = []
    for colour, shape in zip(colours[:needles], shapes[:needles], strict=True):
        # Whole seconds: at two frames a second a slice lasts one, and its time tells it.
        length = int(rng.integers(3, 5))
        start = int(rng.integers(0, duration - length + 1))
        x, y = rng.uniform(0.4, 0.6, 2)
        span = float(start), float(start + length)
        actors.append(Actor(str(shape), (str(colour),), (float(x), float(y)), 0.28, *span))
    width, height = _SIZES[rng.integers(len(_SIZES))]
    return Scene(float(duration), 2, width, height, int(rng.integers(2**31)), tuple(actors))


def _is_fair(film: Film, family: str, easy: bool) -> bool:
    """Whether no shot shows two things, and the overview none unless the scene may be easy."""
    shots = [film.shown(film.dense(span)) for span in film.footage.shots(film.looks)]
    if family == WHEN and sum(film.sought in seen for seen in shots) != 1:
        # What the end of a shot cuts in two cannot be timed by looking at one of them.
        return False
    overview = film.shown(film.footage.overview(film.looks))
    return max(len(seen) for seen in shots) == 1 and (easy or not overview)


def _task(family: str, sought: Actor) -> Task:
    name = thing(sought)
    if family == ONCE:
        return Task(Question(family, "What appears once in the video?", name, THINGS), "")
    if family == COLOUR:
        text = f"What colour is the {sought.shape}?"
        return Task(Question(family, text, sought.colours[0], tuple(COLOURS)), sought.shape)
    span = (sought.start, sought.end)
    text = f"When is the {name} visible?"
    return Task(Question(family, text, agent_texts.seconds(span), span=span), name)
