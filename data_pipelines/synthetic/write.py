"""Writes the synthetic world as a data set: H.264 files, message annotations, a mixture file.

    DIR/data.json                      the mixture: {"synthetic_train":
                                           {"annotation": ..., "media_root": ...}, ...}
    DIR/{train,validation,test}.jsonl  one sample a line
    DIR/clips/{split}/{number}.mp4

A training sample is one conversation with every question of its clip, some of them as multiple
choice; validation and test samples ask one question each, so that no answer stands in the context
of another. Every clip is a pure function of (seed, split, number), and splits never share a seed.
"""

import dataclasses
import json
import pathlib
import tempfile
from concurrent import futures
from multiprocessing import get_context

import av
import numpy as np
import tqdm

from data_pipelines.synthetic import families, scene

LETTERS = "ABCD"
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Preset:
    """How many clips a split holds, and how often each family is drawn.

    Attributes:
      clips: split name -> number of clips.
      shares: family -> relative share of the clips.
      choices: in training, the share of each family's questions that is asked as multiple choice.
    """

    clips: dict[str, int]
    shares: dict[str, float]
    choices: dict[str, float]


_SHARES = {
    "attribute": 0.21,
    "counting": 0.14,
    "motion": 0.19,
    "order": 0.18,
    "grounding": 0.13,
    "needle": 0.04,
    "caption": 0.11,
}
# To find the letter of an option is learnt on what is easily seen; what is hard to see is learnt
# sooner from open questions.
_CHOICES = {"attribute": 0.2, "counting": 0.2, "motion": 0.05, "order": 0.05, "needle": 0.05}
PRESETS = {
    "tiny": Preset({"train": 8000, "validation": 140, "test": 420}, _SHARES, _CHOICES),
    "test": Preset(
        {"train": 14, "validation": 7, "test": 7},
        dict.fromkeys(_SHARES, 1.0),
        dict.fromkeys(_CHOICES, 0.3),
    ),
}


def synthesize(out: pathlib.Path, preset: Preset, seed: int, workers: int) -> dict[str, int]:
    """Writes the whole data set under `out`, which must be empty or absent.

    Returns:
      samples written for each split.

    Raises:
      FileExistsError: `out` holds files already.
    """
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    counts = {}
    with futures.ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for split in SPLITS:
            (partial / "clips" / split).mkdir(parents=True)
            jobs = _jobs(partial, preset, split, seed)
            lines = pool.map(_write_clip, jobs, chunksize=16)
            lines = tqdm.tqdm(
                lines, f"synthesize {split}", total=len(jobs), unit=" clips", mininterval=0.5
            )
            samples = [sample for clip_samples in lines for sample in clip_samples]
            text = "".join(json.dumps(sample) + "\n" for sample in samples)
            (partial / f"{split}.jsonl").write_text(text)
            counts[split] = len(samples)
    mixture = {
        f"synthetic_{split}": {
            "annotation": f"{split}.jsonl",
            "media_root": ".",
            "sample_ratio": 1.0,
        }
        for split in SPLITS
    }
    (partial / "data.json").write_text(json.dumps(mixture, indent=2) + "\n")
    if out.exists():
        out.rmdir()
    partial.chmod(0o755)
    partial.rename(out)
    return counts


@dataclasses.dataclass(frozen=True)
class _Job:
    root: pathlib.Path
    split: str
    number: int
    family: str
    seed: tuple[int, int, int]
    choices: dict[str, float]


def _jobs(root: pathlib.Path, preset: Preset, split: str, seed: int) -> list[_Job]:
    """One job a clip; families interleave in the proportions of their shares."""
    shares = np.array(list(preset.shares.values()))
    count = preset.clips[split]
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    # Evenly spread quantiles make the counts exact; shuffling them makes the order random.
    quantiles = (rng.permutation(count) + 0.5) / count
    chosen = np.searchsorted(np.cumsum(shares) / shares.sum(), quantiles)
    names = list(preset.shares)
    return [
        _Job(root, split, i, names[c], (seed, SPLITS.index(split), i), preset.choices)
        for i, c in enumerate(chosen)
    ]


@dataclasses.dataclass(frozen=True)
class Annotated:
    """A clip still to be drawn, its path under the root, and its samples."""

    clip: scene.Scene
    name: str
    samples: list[dict]


def annotate(job: _Job) -> Annotated:
    """Invents one clip and the samples that ask about it."""
    rng = np.random.default_rng(job.seed)
    clip, questions = families.invent(job.family, rng)
    name = f"clips/{job.split}/{job.number:06d}.mp4"
    video = {
        "type": "video_url",
        "video_url": {
            "url": name,
            "image_wh": [clip.width, clip.height],
            "origin_video_length": clip.num_frames,
            "origin_fps": clip.rate,
        },
    }
    sample_id = f"{job.split}-{job.number:06d}"
    if job.split == "train":
        turns = [
            _choice(question, rng)
            if question.values and rng.random() < job.choices[question.family]
            else _open(question)
            for question in questions
        ]
        return Annotated(clip, name, [_sample(sample_id, video, turns)])
    samples = []
    own = [question for question in questions if question.family == job.family]
    for i, question in enumerate(own):
        samples.append(_sample(f"{sample_id}-{i}-open", video, [_open(question)]))
        if question.values:
            turn = _choice(question, rng)
            samples.append(_sample(f"{sample_id}-{i}-choice", video, [turn]))
    return Annotated(clip, name, samples)


def _write_clip(job: _Job) -> list[dict]:
    """Annotates, draws and encodes one clip; returns its samples."""
    annotated = annotate(job)
    frames = scene.render(annotated.clip)
    encode(job.root / annotated.name, frames, annotated.clip.rate)
    return annotated.samples


@dataclasses.dataclass(frozen=True)
class _Turn:
    """A question as asked and the answer expected; `truth` is what an evaluation needs to know."""

    text: str
    answer: str
    truth: dict


def _open(question: families.Question) -> _Turn:
    truth = {
        "family": question.family,
        "format": "open",
        "answer": question.answer,
        "values": list(question.values),
    }
    if question.span:
        truth["span"] = list(question.span)
    return _Turn(question.text, question.answer, truth)


def _choice(question: families.Question, rng: np.random.Generator) -> _Turn:
    """Four options with the right one at a uniformly drawn place.

    The answer names the option before its letter: a model that sees what is right then has only to
    copy the letter that follows it in the list, which it learns in minutes; to bind a bare letter
    takes many times as long.
    """
    others = [value for value in question.values if value != question.answer]
    options = [str(other) for other in rng.permutation(others)[: len(LETTERS) - 1]]
    place = int(rng.integers(len(options) + 1))
    options.insert(place, question.answer)
    listed = "\n".join(
        f"{option}({letter})" for letter, option in zip(LETTERS, options, strict=False)
    )
    text = f"{question.text}\n{listed}\nAnswer with one of these."
    truth = {
        "family": question.family,
        "format": "choice",
        "answer": LETTERS[place],
        "options": options,
    }
    return _Turn(text, f"{question.answer}({LETTERS[place]})", truth)


def _sample(sample_id: str, video: dict, turns: list[_Turn]) -> dict:
    messages = []
    for i, turn in enumerate(turns):
        content = (
            turn.text if i else [video, {"type": "text", "text": f"<VIDEO_CONTEXT>{turn.text}"}]
        )
        messages += [
            {"role": "user", "content": content},
            {"role": "assistant", "content": turn.answer},
        ]
    return {
        "id": sample_id,
        "messages": messages,
        "truths": [turn.truth for turn in turns],
    }


def encode(path: pathlib.Path, frames: np.ndarray, rate: int) -> None:
    """Writes frames, uint8 [F_, height, width, 3] RGB, as H.264 mp4 at `rate` frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        # With mbtree on, x264 165 writes other bytes from one run to the next.
        stream.options = {"preset": "veryfast", "crf": "18", "g": "48", "x264-params": "mbtree=0"}
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
