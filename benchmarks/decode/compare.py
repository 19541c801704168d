"""`python -m benchmarks decode`: CPU time to read frames of long videos, by ivx and other decoders.

frames   64, 512, 2048 and all frames, evenly spaced, as uint8 RGB at the size of the file
raw      libavcodec alone, all frames in order, with and without conversion to RGB
patches  128 frames resized to 320x192 and cut into patches, as the model reads them

Videos are generated once and cached. Every contestant is a process of its own with one thread
unless stated otherwise. Contestants take turns. CPU time is user and system time of all threads,
since wall time means little on a shared machine. The index of every frame is drawn into it, so
wrong frames are detected.
"""

import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from benchmarks import timing
from benchmarks.decode import videos
from benchmarks.decode.videos import Clip
from ivx.errors import UserError

OURS = ("ivx", "raw", "raw to RGB", "ivx patches")
# Other decoders; they run in an environment that has their packages.
FRAME_PEERS = ("torchcodec", "decord", "opencv")
PATCH_PEERS = ("qwen-vl-utils patches", "xtuner-style patches")
COUNTS = (64, 512, 2048, 0)  # 0: all
CLIPS = (Clip(300, 250), Clip(300, 30), Clip(3600, 250, copies=12), Clip(3600, 30, copies=12))
QUICK_CLIPS = (Clip(20, 250), Clip(20, 30))
PATCH_FRAMES, PATCH_SIZE = 128, (192, 320)
_WORKER = pathlib.Path(__file__).with_name("worker.py")

SUMMARY = "CPU time to read frames of long videos, compared with other decoders."
EXAMPLE = "  python -m benchmarks decode --quick"


@dataclasses.dataclass(frozen=True)
class Target:
    """A goal: at most `most` times the CPU time of another contestant.

    Attributes:
      clip: name of the clip.
      count: of frames, 0 for all.
      ours: contestant of ivx.
      other: contestant to compare with.
      most: bound of the ratio.
    """

    clip: str
    count: int
    ours: str
    other: str
    most: float


_LONG = "300s_gop250"
TARGETS = (
    *(Target(_LONG, count, "ivx", "torchcodec", 0.70) for count in (64, 512)),
    *(Target(_LONG, count, "ivx", "decord", 0.50) for count in (64, 512)),
    Target(_LONG, 0, "ivx", "raw", 1.15),
    Target(_LONG, 0, "ivx", "raw to RGB", 1.15),
    *(Target(_LONG, PATCH_FRAMES, "ivx patches", other, 0.45) for other in PATCH_PEERS),
)


def define_flags() -> None:
    """Defines the flags of this benchmark."""
    timing.define_flags()
    cache = pathlib.Path.home() / ".cache" / "ivx" / "bench"
    flags.DEFINE_string("videos", str(cache), "Folder of the cached videos.")
    flags.DEFINE_string(
        "peers", ".venv-decoders/bin/python", "Python interpreter that has the other decoders."
    )
    flags.DEFINE_bool("quick", False, "Two videos of 20 seconds, one turn.")
    flags.DEFINE_list("clips", None, "Clips, such as 300s_gop250,3600s_gop30; all by default.")
    flags.DEFINE_list("counts", None, "Frame counts, such as 64,0; 0 for all frames.")
    flags.DEFINE_list("only", None, "Contestants, such as ivx,decord; all by default.")


def run(flag_values: Any, words: Sequence[str] = ()) -> dict:
    """Times every contestant in every case."""
    del words
    cases, contestants = _cases(flag_values), _contestants(flag_values)
    repeats = 1 if flag_values.quick else flag_values.repeats
    folder = pathlib.Path(flag_values.videos)
    for clip in {case.clip for case in cases}:
        clip.make(folder)
    before, rows = timing.load(), []
    with _Workers(flag_values.peers) as workers:
        for case in cases:
            rows += _turns(case, contestants, workers, folder, repeats)
    result = {
        "machine": timing.machine(("av", "numpy", "pillow")),
        "load": [before, timing.load()],
        "repeats": repeats,
        "absent": workers.absent,
        "versions": workers.versions,
        "rows": rows,
        "targets": _judged(rows),
        "wrong_frames": sum(row["frames"] - row["exact"] for row in rows if row["name"] == "ivx"),
    }
    print(_page(result))
    return result


@dataclasses.dataclass(frozen=True)
class _Case:
    """A number of frames of a clip, 0 for all, and whether to cut them into patches."""

    clip: Clip
    count: int
    patches: bool = False

    def request(self, folder: pathlib.Path) -> dict:
        """The request for a worker."""
        return {
            "path": str(self.clip.make(folder)),
            "total": self.clip.num_frames,
            "rate": videos.RATE,
            "size": [videos.HEIGHT, videos.WIDTH],
            "patch_size": list(PATCH_SIZE),
            "count": self.count or self.clip.num_frames,
            "period": self.clip.num_frames // self.clip.copies,
        }

    def takes(self, name: str) -> bool:
        """Whether a contestant takes part; the raw decoder always reads all frames."""
        if name.startswith("raw") and self.count:
            return False
        return name.endswith("patches") == self.patches


def _cases(flag_values: Any) -> list[_Case]:
    clips = QUICK_CLIPS if flag_values.quick else CLIPS
    if flag_values.clips:
        known = {clip.name: clip for clip in (*CLIPS, *QUICK_CLIPS)}
        unknown = [name for name in flag_values.clips if name not in known]
        if unknown:
            raise UserError(
                f"--clips: unknown {', '.join(unknown)}; choose from {', '.join(known)}"
            )
        clips = [known[name] for name in flag_values.clips]
    try:
        counts = [int(count) for count in flag_values.counts or COUNTS]
    except ValueError as error:
        raise UserError(
            f"--counts={','.join(flag_values.counts)}: expected integers, 0 for all"
        ) from error
    if min(counts) < 0:
        raise UserError(f"--counts={','.join(flag_values.counts)}: expected integers, 0 for all")
    cases = []
    for clip in clips:
        fitting = [count for count in counts if count <= clip.num_frames]
        cases += [_Case(clip, count) for count in fitting]
        cases.append(_Case(clip, PATCH_FRAMES, patches=True))
    return cases


def _contestants(flag_values: Any) -> list[str]:
    known = [*OURS[:1], *FRAME_PEERS, *OURS[1:], *PATCH_PEERS]
    unknown = [name for name in flag_values.only or () if name not in known]
    if unknown:
        raise UserError(f"--only: unknown {', '.join(unknown)}; choose from {', '.join(known)}")
    return flag_values.only or known


def _turns(
    case: _Case,
    contestants: Sequence[str],
    workers: "_Workers",
    folder: pathlib.Path,
    repeats: int,
) -> list[dict]:
    """Runs every contestant in turn, `repeats` times."""
    names = [name for name in contestants if case.takes(name)]
    answers = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            answer = workers.ask(name, case.request(folder))
            if answer is not None:
                answers[name].append(answer)
    return [
        {
            "clip": case.clip.name,
            "count": case.count,
            "name": name,
            "seconds": round(statistics.median(turn["seconds"] for turn in turns), 3),
            "turns": [round(turn["seconds"], 3) for turn in turns],
            "frames": turns[0]["frames"],
            "exact": min(turn["exact"] for turn in turns),
            "megabytes": max(turn["megabytes"] for turn in turns),
        }
        for name, turns in answers.items()
        if turns
    ]


class _Workers:
    """The processes of the contestants, each started and warmed up at its first request.

    Attributes:
      absent: contestant -> why it does not run.
      versions: package -> version.
    """

    def __init__(self, peers: str) -> None:
        self.absent: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._peers, self._processes = peers, {}

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.stdin.close()
            process.wait()
            process.stdout.close()

    def ask(self, name: str, request: dict) -> dict | None:
        """The answer of a contestant; None if it is absent."""
        if name in self.absent:
            return None
        if name not in self._processes:
            python = sys.executable if name in OURS else self._peers
            if name not in OURS and not pathlib.Path(python).is_file():
                self.absent[name] = f"no Python at {python}; `make bench-decode` installs it"
                return None
            self._processes[name] = _start(python, name)
            # The warm-up loads libraries and fills caches.
            self._exchange(name, request | {"count": 2})
        return None if name in self.absent else self._exchange(name, request)

    def _exchange(self, name: str, request: dict) -> dict | None:
        process = self._processes[name]
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = (
            json.loads(line) if line else {"error": f"its process exited with {process.poll()}"}
        )
        if "error" in answer:
            self.absent[name] = answer["error"]
            return None
        self.versions |= answer["versions"]
        return answer


def _start(python: str, name: str) -> subprocess.Popen:
    environment = dict(os.environ)
    if name in OURS:
        # The workers of ivx run this checkout.
        environment["PYTHONPATH"] = str(pathlib.Path(__file__).parents[2])
    return subprocess.Popen(
        [python, str(_WORKER), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def _judged(rows: list[dict]) -> list[dict]:
    """Every target of which both contestants were measured."""
    seconds = {(row["clip"], row["count"], row["name"]): row["seconds"] for row in rows}
    judged = []
    for target in TARGETS:
        ours = seconds.get((target.clip, target.count, target.ours))
        other = seconds.get((target.clip, target.count, target.other))
        if ours and other:
            ratio = round(ours / other, 3)
            judged.append(
                dataclasses.asdict(target) | {"ratio": ratio, "met": ratio <= target.most}
            )
    return judged


def _page(result: dict) -> str:
    """The result as printed."""
    facts = {**result["machine"], **result["versions"]}
    lines = [
        ", ".join(f"{name} {value}" for name, value in facts.items()),
        f"load {result['load'][0]} before, {result['load'][1]} after; medians of"
        f" {result['repeats']} turns of CPU time",
        f"{'clip':13s} {'frames':>7s} {'':22s} {'CPU s':>8s} {'ms/frame':>9s} {'frames/s':>9s}"
        f" {'exact':>14s} {'MB':>6s}",
    ]
    for row in result["rows"]:
        exact = "" if row["name"] == "raw" else f"{row['exact']}/{row['frames']}"
        lines.append(
            f"{row['clip']:13s} {row['count'] or 'all':>7} {row['name']:22s} {row['seconds']:8.2f}"
            f" {1e3 * row['seconds'] / row['frames']:9.2f} {row['frames'] / row['seconds']:9.0f}"
            f" {exact:>14s} {row['megabytes']:6d}"
        )
    for target in result["targets"]:
        lines.append(
            f"{target['ours']} / {target['other']}, {target['count'] or 'all'} frames of"
            f" {target['clip']}: {target['ratio']:.2f}, goal at most {target['most']:g}"
            f"{'' if target['met'] else ': MISSED'}"
        )
    lines += [f"absent: {name}: {why}" for name, why in result["absent"].items()]
    return "\n".join(lines)
