"""The page of a mixture: samples as the model sees them, their lengths, and how packs fill."""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib import figure, ticker

from data_pipelines import packing, plan
from data_pipelines.layout import Clip, Layout, LayoutRule
from data_pipelines.media_error import MediaError
from data_pipelines.sources import Sample
from data_pipelines.video.frames import FRAMES_PER_SLICE
from ivx.reporting import frames, paths, svg, template

FILE = "inspect.html"
# Slices shown of a clip, and slices kept in its text, half at each end.
_SLICES = 12
_TEXT_SLICES = 6
_PACKS = 8
_SPECIAL = re.compile(r"(<\|[^|]+\|>)")


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of a sample's text.

    Attributes:
      kind: plain, trained, special, visual or skipped.
      text: text on the page.
    """

    kind: str
    text: str


@dataclasses.dataclass(frozen=True)
class Shown:
    """A video or an image on the page.

    Attributes:
      title: the file, and its size as the model sees it.
      pictures: (time, data: URL) of slices, two frames side by side, at the size that the model
        sees.
      left: slices that are not shown.
      problem: why there are no pictures; empty if there are.
    """

    title: str
    pictures: list[tuple[str, str]]
    left: int
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Card:
    """A sample on the page."""

    name: str
    data_set: str
    layout: Layout
    clips: list[Shown]
    parts: list[Part]

    @property
    def trained(self) -> int:
        return int(self.layout.trained.sum())

    @property
    def visual(self) -> int:
        return int(self.layout.is_visual.sum())


def write(
    folder: pathlib.Path,
    facts: Mapping[str, str],
    members: Mapping[str, plan.Member],
    planned: plan.Plan,
    rule: LayoutRule,
    shape: packing.PackShape,
    count: int,
) -> pathlib.Path:
    """Writes `folder`/inspect.html.

    Args:
      folder: created if missing.
      facts: key-value pairs for the top of the page.
      members: data sets by name.
      planned: a plan of their packs.
      rule: layout of samples.
      shape: shape of a pack.
      count: samples to show, evenly over data sets.
    """
    return template.write(
        folder / FILE,
        "data.html.jinja",
        facts=facts,
        members=members,
        planned=planned,
        shape=shape,
        histogram=_histogram(members, shape),
        packs=[
            _bars(planned.packs[k], rule, shape) for k in range(min(_PACKS, len(planned.packs)))
        ],
        cards=list(_cards(members, rule, -(-count // len(members)))),
        left_out={
            name: [paths.without_folders(sentence) for sentence in member.measured.dropped]
            for name, member in members.items()
        },
    )


def _cards(members: Mapping[str, plan.Member], rule: LayoutRule, each: int) -> Iterator[Card]:
    """Samples of every data set, from its shortest to its longest."""
    for name, member in members.items():
        order = np.argsort(member.measured.sizes.tokens, kind="stable")
        places = np.unique(np.linspace(0, len(order) - 1, min(each, len(order))).astype(int))
        for number in order[places].tolist():
            sample = member.measured.samples[number]
            layout = rule.lay_out(sample)
            clips = [_shown(clip) for clip in layout.clips]
            yield Card(_name(sample), name, layout, clips, _shortened(_parts(layout, rule)))


def _name(sample: Sample) -> str:
    """The id of a sample; one without an id is named after its file and line."""
    return paths.without_folders(sample.id)


def _shown(clip: Clip) -> Shown:
    total = len(clip.times)
    rows, columns = clip.token_shape
    name = pathlib.PurePath(clip.path).name
    title = f"{name}: {clip.info.width}x{clip.info.height}, seen at {clip.width}x{clip.height}"
    if not clip.still:
        slices = f"{total} slice" + "s" * (total > 1)
        title += f", {len(clip.indices)} of {clip.info.num_frames:,} frames in {slices}"
    title += f", {rows} x {columns} tokens" + ("" if clip.still else " per slice")
    chosen = np.unique(np.linspace(0, total - 1, min(total, _SLICES)).astype(int))
    pairs = clip.indices.reshape(-1, FRAMES_PER_SLICE)[chosen]
    try:
        pixels = dataclasses.replace(
            clip, indices=pairs.reshape(-1), times=clip.times[chosen]
        ).read()
    except MediaError as error:
        return Shown(title, [], total, paths.without_folders(str(error)))
    if clip.still:
        return Shown(title, [("", frames.data_url(pixels[0]))], 0)
    pictures = [
        (f"{time:.1f} s", frames.data_url(_side_by_side(pair)))
        for time, pair in zip(
            clip.times[chosen], pixels.reshape(-1, FRAMES_PER_SLICE, *pixels.shape[1:]), strict=True
        )
    ]
    return Shown(title, pictures, total - len(chosen))


def _side_by_side(pair: np.ndarray) -> np.ndarray:
    """uint8 [2, h, w, 3] as one picture with a white line between."""
    return np.concatenate([pair[0], np.full_like(pair[0][:, :2], 255), pair[1]], 1)


def _parts(layout: Layout, rule: LayoutRule) -> Iterator[Part]:
    """The tokens decoded to text, split where loss begins or ends and around pictures."""
    kinds = 2 * layout.is_visual + layout.trained
    cuts = np.flatnonzero(np.diff(kinds)) + 1
    for run, kind in zip(
        np.split(layout.tokens, cuts), kinds[np.concatenate([[0], cuts])].tolist(), strict=True
    ):
        if kind >= 2:
            yield Part("visual", f"{len(run)} visual")
            continue
        text = rule.tokenizer.decode(run.tolist(), skip_special=False)
        for piece in _SPECIAL.split(text):
            if piece and kind:
                yield Part("trained", piece)
            elif piece:
                yield Part("special" if _SPECIAL.fullmatch(piece) else "plain", piece)


def _shortened(parts: Iterator[Part]) -> list[Part]:
    """The parts without the middle of long videos."""
    parts = list(parts)
    visual = [index for index, part in enumerate(parts) if part.kind == "visual"]
    if len(visual) <= _TEXT_SLICES:
        return parts
    first, last = visual[_TEXT_SLICES // 2] - 2, visual[-_TEXT_SLICES // 2] + 2
    skipped = sum(first <= index < last for index in visual)
    return [*parts[:first], Part("skipped", f"{skipped} more slices"), *parts[last:]]


def _bars(samples: Sequence, rule: LayoutRule, shape: packing.PackShape) -> list[dict]:
    """The samples of a pack as segments of a bar, in per cent of its tokens."""
    bars = []
    for sample in samples:
        layout = rule.lay_out(sample)
        size = len(layout.tokens)
        bars.append(
            {
                "width": 100 * size / shape.tokens,
                "visual": 100 * int(layout.is_visual.sum()) / size,
                "title": f"{_name(sample)}: {size:,} tokens",
            }
        )
    return bars


def _histogram(members: Mapping[str, plan.Member], shape: packing.PackShape) -> str:
    """Histograms of sample lengths, by samples and by tokens, as SVG."""
    canvas = figure.Figure(figsize=(10.4, 2.8), layout="constrained")
    left, right = canvas.subplots(1, 2)
    tokens = [member.measured.sizes.tokens for member in members.values()]
    longest = max(int(part.max(initial=1)) for part in tokens)
    bins = np.geomspace(max(1, min(int(part.min(initial=longest)) for part in tokens)), longest + 1)
    bins = np.unique(np.round(bins[:: 1 if longest > 1000 else 2]))
    for axes, weights, title in (
        (left, None, "samples by length"),
        (right, tokens, "tokens by sample length"),
    ):
        axes.hist(tokens, bins=bins, weights=weights, stacked=True, label=list(members))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
        axes.axvline(shape.tokens, color="#111", linewidth=1, linestyle=":")
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axes.set_xlabel("tokens per sample")
        axes.grid(alpha=0.25, axis="y")
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=8)
    return svg.render(canvas)
