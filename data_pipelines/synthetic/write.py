"""Writes a synthetic data set: H.264 files, annotations in message format, and a mixture file.

    DIR/data.json                      the mixture: {"synthetic_train":
                                           {"annotation": ..., "media_root": ...}, ...}
    DIR/{split}.jsonl                  one sample per line
    DIR/clips/{split}/{number}.mp4

A training sample is one conversation with all questions of its clip. Validation and test samples
ask one question each, so no answer appears in the context of another. Every clip is a pure function
of (seed, split, number), and splits use different seeds.
"""

import dataclasses
import json
import pathlib
import zlib

import av
import numpy as np
import tqdm

from data_pipelines.process_pool import process_pool
from data_pipelines.synthetic import families, scene, traces, turns
from data_pipelines.synthetic.presets import Preset, Split
from data_pipelines.whole_folder import whole_folder


def synthesize(out: pathlib.Path, preset: Preset, seed: int, workers: int) -> dict[str, int]:
    """Writes the data set under `out`, which must be empty or absent, as a `whole_folder`.

    Returns:
      Number of samples in each split.

    Raises:
      FileExistsError: `out` is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; choose an empty or new folder")
    counts = {}
    with whole_folder(out) as partial, process_pool(workers) as pool:
        for name, split in preset.items():
            (partial / "clips" / name).mkdir(parents=True)
            jobs = make_jobs(partial, name, split, seed)
            lines = pool.map(_write_clip, jobs, chunksize=16)
            lines = tqdm.tqdm(
                lines, f"synthesize {name}", total=len(jobs), unit=" clips", mininterval=0.5
            )
            samples = [sample for clip_samples in lines for sample in clip_samples]
            text = "".join(json.dumps(sample) + "\n" for sample in samples)
            (partial / f"{name}.jsonl").write_text(text)
            counts[name] = len(samples)
        mixture = {
            f"synthetic_{name}": {
                "annotation": f"{name}.jsonl",
                "media_root": ".",
                "sample_ratio": 1.0,
            }
            for name in preset
        }
        (partial / "data.json").write_text(json.dumps(mixture, indent=2) + "\n")
    return counts


@dataclasses.dataclass(frozen=True)
class Job:
    """One clip, or text without a clip, to write.

    Attributes:
      root: the folder of the data set.
      name: the name of the split.
      split: its settings.
      number: of the clip within the split.
      family: of the clip.
      seed: of the clip.
    """

    root: pathlib.Path
    name: str
    split: Split
    number: int
    family: str
    seed: tuple[int, int, int]


def make_jobs(root: pathlib.Path, name: str, split: Split, seed: int) -> list[Job]:
    """Returns one job per clip; families alternate at random in proportion to their shares."""
    shares = np.array(list(split.shares.values()))
    stream = zlib.crc32(name.encode())
    rng = np.random.default_rng([seed, stream])
    # Evenly spaced quantiles make the counts exact; the permutation makes the order random.
    quantiles = (rng.permutation(split.clips) + 0.5) / split.clips
    drawn = np.searchsorted(np.cumsum(shares) / shares.sum(), quantiles)
    names = list(split.shares)
    return [Job(root, name, split, i, names[f], (seed, stream, i)) for i, f in enumerate(drawn)]


@dataclasses.dataclass(frozen=True)
class AnnotatedClip:
    """A clip that is not rendered yet, and its samples.

    Attributes:
      clip: None for samples without video.
      name: its path under the root.
      samples: annotations.
    """

    clip: scene.Scene | None
    name: str
    samples: list[dict]


def annotate(job: Job) -> AnnotatedClip:
    """Generates one clip, or text alone, and its samples."""
    rng = np.random.default_rng(job.seed)
    name = f"clips/{job.name}/{job.number:06d}.mp4"
    sample_id = f"{job.name}-{job.number:06d}"
    if job.split.style == "words":
        return AnnotatedClip(None, "", [traces.search_in_words(rng) | {"id": sample_id}])
    if job.split.style in ("traces", "steps", "agent"):
        trace = traces.needle_trace(rng, name)
        if job.split.style == "steps":
            return AnnotatedClip(trace.scene, name, [traces.step(rng, trace) | {"id": sample_id}])
        samples = trace.samples
        if job.split.style == "agent":
            turn = turns.open_ended(trace.question)
            samples = [turns.sample("", video_item(name, trace.scene), [turn])]
        samples = [sample | {"id": f"{sample_id}-{i}"} for i, sample in enumerate(samples)]
        return AnnotatedClip(trace.scene, name, samples)
    clip, questions = families.generate(job.family, rng)
    video = video_item(name, clip)
    if job.split.style == "conversation":
        conversation = [_turn(question, job.split, rng) for question in questions]
        return AnnotatedClip(clip, name, [turns.sample(sample_id, video, conversation)])
    samples = []
    # Scenes of motion and grounding also give attribute questions, which are skipped here.
    questions = [question for question in questions if question.family == job.family]
    for i, question in enumerate(questions):
        if job.split.style == "one":
            turn = _turn(question, job.split, rng)
            samples.append(turns.sample(f"{sample_id}-{i}", video, [turn]))
            continue
        samples.append(turns.sample(f"{sample_id}-{i}-open", video, [turns.open_ended(question)]))
        if question.values:
            turn = turns.multiple_choice(question, rng)
            samples.append(turns.sample(f"{sample_id}-{i}-choice", video, [turn]))
    return AnnotatedClip(clip, name, samples)


def video_item(name: str, clip: scene.Scene) -> dict:
    """Returns the message item that refers to a clip."""
    video = {
        "url": name,
        "image_wh": [clip.width, clip.height],
        "origin_video_length": clip.num_frames,
        "origin_fps": clip.rate,
    }
    return {"type": "video_url", "video_url": video}


def _turn(question: families.Question, split: Split, rng: np.random.Generator) -> turns.Turn:
    """Formats the question with a style drawn from the split's probabilities."""
    choice = question.values and rng.random() < split.choices.get(question.family, 0)
    turn = turns.multiple_choice(question, rng) if choice else turns.open_ended(question)
    if question.thought and split.thinking and rng.random() < split.thinking:
        turn = turns.with_thought(turn, question)
    return turn


def _write_clip(job: Job) -> list[dict]:
    """Annotates, renders and encodes one clip, if there is one; returns its samples."""
    annotated = annotate(job)
    if annotated.clip is None:
        return annotated.samples
    frames = scene.render(annotated.clip)
    encode(job.root / annotated.name, frames, annotated.clip.rate)
    return annotated.samples


def encode(path: pathlib.Path, frames: np.ndarray, rate: int) -> None:
    """Writes frames, uint8 [F_, height, width, 3] RGB, as H.264 mp4 at `rate` frames per second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        # With mbtree, the output of x264 165 differs between runs.
        stream.options = {"preset": "veryfast", "crf": "18", "g": "48", "x264-params": "mbtree=0"}
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
