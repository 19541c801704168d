"""Long videos with needles: shapes visible for a few seconds, questions about them, and views.

|------------------|needle|------------------------------|    90 to 180 seconds
x       x       x       x       x       x       x       x    overview: rarely hits the needle
|-----|-----|-----|-----|-----|-----|-----|-----|-----|--|    shots: one or two show it

A video has one needle (`agent_once`) or two (the other families). The question is about the first:

    agent_once     What appears once in the video?      -> colour and shape
    agent_colour   What colour is the SHAPE?            -> colour
    agent_when     When is the COLOUR SHAPE visible?    -> span in seconds
"""

import dataclasses

import numpy as np

from data_pipelines.synthetic.families import Question
from data_pipelines.synthetic.scene import COLOURS, SHAPES, Actor, Scene
from data_pipelines.video import frames
from data_pipelines.video.info import VideoInfo
from data_pipelines.views import Span, VideoFile, ViewConfig
from ivx.text import agent_texts
from ivx.text.labels import NOTHING, Label

ONCE, COLOUR, WHEN = FAMILIES = ("agent_once", "agent_colour", "agent_when")
OBJECTS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
_SIZES = ((64, 64), (96, 96), (128, 96), (96, 128))
# Probability that the overview of a scene is allowed to show a needle.
_EASY = 0.4
# Probabilities of a mislabelled shot, of a false positive, and of choosing an error that is likely
# to mislead.
_WRONG_LABEL, _FALSE_POSITIVE, _MISLEADING = 0.4, 0.4, 0.7


@dataclasses.dataclass(frozen=True)
class Task:
    """A question about the first actor of a scene.

    Attributes:
      question: with its true answer; its family is one of `FAMILIES`.
      query: the words to search for.
    """

    question: Question
    query: str

    def answer_from(self, label: Label) -> str:
        """The answer that a label alone suggests."""
        return {
            ONCE: label.text,
            COLOUR: label.text.split()[0],
            WHEN: agent_texts.seconds(label.span),
        }[self.question.family]


@dataclasses.dataclass(frozen=True)
class NeedleVideo:
    """A scene as a video file that an agent can view.

    Attributes:
      scene: its first actor is the subject of the question.
      video_file: the file that the scene will be rendered to.
      view_config: the density of the views.
    """

    scene: Scene
    video_file: VideoFile
    view_config: ViewConfig

    @property
    def target(self) -> Actor:
        """The needle that the question is about."""
        return self.scene.actors[0]

    def dense_view(self, span: Span) -> dict:
        """A dense view of a span."""
        return self.video_file.dense_view(span, self.view_config, self.view_config.dense_frames)

    def visible_actors(self, view: dict) -> list[Actor]:
        """Actors in any sampled frame of a view, in order of time."""
        video = view["video_url"]
        rule = frames.FrameRule(video["fps"], min_frames=2, max_frames=64)
        indices = frames.frame_indices(self.video_file.info, rule, video.get("span"))
        times = indices / self.scene.rate
        visible = [a for a in self.scene.actors if ((a.start <= times) & (times < a.end)).any()]
        return sorted(visible, key=lambda actor: actor.start)

    def true_labels(self) -> list[Label]:
        """A correct label for every shot."""
        labels = []
        for span in self.video_file.shots(self.view_config):
            visible = self.visible_actors(self.video_file.shot_view(span, self.view_config))
            labels.append(Label(span, object_name(visible[0]) if visible else NOTHING))
        return labels


def generate(
    rng: np.random.Generator, url: str, view_config: ViewConfig
) -> tuple[NeedleVideo, Task]:
    """Returns a video that will be rendered to `url`, and a question from a random family."""
    family = str(rng.choice(FAMILIES))
    while True:
        scene = _scene(rng, needles=1 if family == ONCE else 2)
        info = VideoInfo(scene.num_frames, float(scene.rate), scene.width, scene.height)
        video = NeedleVideo(scene, VideoFile(url, info), view_config)
        if _is_valid(video, family, easy=bool(rng.random() < _EASY)):
            return video, _task(family, video.target)


def object_name(actor: Actor) -> str:
    """The colour and shape of an actor, as in `OBJECTS`."""
    return f"{actor.colours[0]} {actor.shape}"


def corrupt(rng: np.random.Generator, labels: list[Label]) -> list[Label]:
    """Adds the errors of a weak labeller: a wrong colour or shape, or an object that is absent."""
    labels = list(labels)
    positive = [number for number, label in enumerate(labels) if label.text != NOTHING]
    negative = [number for number, label in enumerate(labels) if label.text == NOTHING]
    if rng.random() < _WRONG_LABEL:
        number = int(rng.choice(positive))
        colour, shape = labels[number].text.split()
        if rng.random() < _MISLEADING:
            colour = str(rng.choice([name for name in COLOURS if name != colour]))
        else:
            shape = str(rng.choice([name for name in SHAPES if name != shape]))
        labels[number] = Label(labels[number].span, f"{colour} {shape}")
    if rng.random() < _FALSE_POSITIVE:
        number = int(rng.choice(negative))
        copies_label = rng.random() < _MISLEADING
        text = labels[int(rng.choice(positive))].text if copies_label else str(rng.choice(OBJECTS))
        labels[number] = Label(labels[number].span, text)
    return labels


def _scene(rng: np.random.Generator, needles: int) -> Scene:
    duration = int(rng.integers(90, 181))
    colours, shapes = rng.permutation(list(COLOURS)), rng.permutation(SHAPES)
    actors = []
    for colour, shape in zip(colours[:needles], shapes[:needles], strict=True):
        # Times are whole seconds: at two frames per second a slice lasts one second, so the needle
        # can be timed exactly.
        length = int(rng.integers(3, 5))
        start = int(rng.integers(0, duration - length + 1))
        x, y = rng.uniform(0.4, 0.6, 2)
        span = float(start), float(start + length)
        actors.append(Actor(str(shape), (str(colour),), (float(x), float(y)), 0.28, *span))
    width, height = _SIZES[rng.integers(len(_SIZES))]
    return Scene(float(duration), 2, width, height, int(rng.integers(2**31)), tuple(actors))


def _is_valid(video: NeedleVideo, family: str, easy: bool) -> bool:
    """Whether no shot shows two objects, and the overview shows none unless `easy`."""
    shots = [
        video.visible_actors(video.dense_view(span))
        for span in video.video_file.shots(video.view_config)
    ]
    if family == WHEN and sum(video.target in visible for visible in shots) != 1:
        # A needle that crosses a shot boundary cannot be timed from one shot.
        return False
    overview = video.visible_actors(video.video_file.overview(video.view_config))
    return max(len(visible) for visible in shots) == 1 and (easy or not overview)


def _task(family: str, target: Actor) -> Task:
    name = object_name(target)
    if family == ONCE:
        return Task(Question(family, "What appears once in the video?", name, OBJECTS), "")
    if family == COLOUR:
        text = f"What colour is the {target.shape}?"
        return Task(Question(family, text, target.colours[0], tuple(COLOURS)), target.shape)
    span = (target.start, target.end)
    text = f"When is the {name} visible?"
    return Task(Question(family, text, agent_texts.seconds(span), span=span), name)
