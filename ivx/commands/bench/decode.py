"""`ivx bench decode`: processor time to read frames of long videos, beside other decoders.

frames   64, 512, 2048 and all frames, spread evenly, as uint8 RGB of the size of the file
raw      libavcodec alone: every frame of the file in a row, not converted; and converted
patches  128 frames resized to 320x192 and cut in patches, as the model reads them

Videos are made the first time and kept. Every contestant is a process of its own, on one thread
but for what is said otherwise; they take turns, and processor time counts, user and system, in all
threads: on a machine that others use too, the time on the clock says little. The number of every
frame is written in it, so that a wrong frame is seen.
"""

import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys

from absl import flags

from ivx.commands.bench import decode_videos, timing
from ivx.commands.bench.decode_videos import Clip
from ivx.errors import UserError

OURS = ("ivx", "raw", "raw to RGB", "ivx patches")
# Of others; they run where their packages are.
FRAME_PEERS = ("torchcodec", "decord", "opencv")
PATCH_PEERS = ("qwen-vl-utils patches", "xtuner-style patches")
COUNTS = (64, 512, 2048, 0)  # 0: all
CLIPS = (Clip(300, 250), Clip(300, 30), Clip(3600, 250, copies=12), Clip(3600, 30, copies=12))
QUICK_CLIPS = (Clip(20, 250), Clip(20, 30))
PATCH_FRAMES, PATCH_SIZE = 128, (192, 320)
_WORKER = pathlib.Path(__file__).with_name("decode_worker.py")


@dataclasses.dataclass(frozen=True)
class Target:
    """What ivx aims at: at most `most` times the processor time of a contestant in a case."""

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
    cache = pathlib.Path.home() / ".cache" / "ivx" / "bench"
    flags.DEFINE_string("videos", str(cache), "bench decode: where its videos are kept.")
    flags.DEFINE_string(
        "peers", ".venv-decoders/bin/python", "bench decode: Python that has the other decoders."
    )
    flags.DEFINE_bool("quick", False, "bench decode: two videos of 20 seconds, one repeat.")
    flags.DEFINE_list("clips", None, "bench decode: only these, as 300s_gop250,3600s_gop30.")
    flags.DEFINE_list("counts", None, "bench decode: only so many frames, 0 for all, as 64,0.")
    flags.DEFINE_list("only", None, "bench decode: only these contestants, as ivx,decord.")


def run(given) -> dict:
    cases, contestants = _cases(given), _contestants(given)
    folder = pathlib.Path(given.videos)
    for clip in {case.clip for case in cases}:
        clip.make(folder)
    before, rows = timing.load(), []
    with _Workers(given.peers) as workers:
        for case in cases:
            rows += _turns(case, contestants, workers, folder, 1 if given.quick else given.repeats)
    result = {
        "machine": timing.machine(("av", "numpy", "pillow")),
        "load": [before, timing.load()],
        "repeats": 1 if given.quick else given.repeats,
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
    """So many frames of a clip, 0 for all, and whether patches are made of them."""

    clip: Clip
    count: int
    patches: bool = False

    def request(self, folder: pathlib.Path) -> dict:
        """What a worker is asked."""
        return {
            "path": str(self.clip.make(folder)),
            "total": self.clip.num_frames,
            "rate": decode_videos.RATE,
            "size": [decode_videos.HEIGHT, decode_videos.WIDTH],
            "patch_size": list(PATCH_SIZE),
            "count": self.count or self.clip.num_frames,
            "period": self.clip.num_frames // self.clip.copies,
        }

    def takes(self, name: str) -> bool:
        """Whether a contestant does this; the raw decoder always reads everything."""
        if name.startswith("raw") and self.count:
            return False
        return name.endswith("patches") == self.patches


def _cases(given) -> list[_Case]:
    clips = QUICK_CLIPS if given.quick else CLIPS
    if given.clips:
        known = {clip.name: clip for clip in (*CLIPS, *QUICK_CLIPS)}
        unknown = [name for name in given.clips if name not in known]
        if unknown:
            raise UserError(f"--clips: no {', '.join(unknown)}; there are {', '.join(known)}")
        clips = [known[name] for name in given.clips]
    try:
        counts = [int(count) for count in given.counts or COUNTS]
    except ValueError as error:
        raise UserError(f"--counts={','.join(given.counts)}: give numbers, 0 for all") from error
    if min(counts) < 0:
        raise UserError(f"--counts={','.join(given.counts)}: give numbers, 0 for all")
    cases = []
    for clip in clips:
        fitting = [count for count in counts if count <= clip.num_frames]
        cases += [_Case(clip, count) for count in fitting]
        cases.append(_Case(clip, PATCH_FRAMES, patches=True))
    return cases


def _contestants(given) -> list[str]:
    known = [*OURS[:1], *FRAME_PEERS, *OURS[1:], *PATCH_PEERS]
    unknown = [name for name in given.only or () if name not in known]
    if unknown:
        raise UserError(f"--only: no {', '.join(unknown)}; there are {', '.join(known)}")
    return given.only or known


def _turns(case: _Case, contestants, workers: "_Workers", folder, repeats: int) -> list[dict]:
    """Asks every contestant in turn, `repeats` times."""
    taking = [name for name in contestants if case.takes(name)]
    answers = {name: [] for name in taking}
    for _ in range(repeats):
        for name in taking:
            answer = workers.ask(name, case.request(folder))
            if answer is not None:
                answers[name].append(answer)
    return [
        {
            "clip": case.clip.name,
            "count": case.count,
            "name": name,
            "seconds": round(statistics.median(one["seconds"] for one in found), 3),
            "turns": [round(one["seconds"], 3) for one in found],
            "frames": found[0]["frames"],
            "exact": min(one["exact"] for one in found),
            "megabytes": max(one["megabytes"] for one in found),
        }
        for name, found in answers.items()
        if found
    ]


class _Workers:
    """The processes of the contestants, started when first asked and warmed up before they count.

    Attributes:
      absent: contestant -> why it does not run.
      versions: package -> version.
    """

    def __init__(self, peers: str):
        self.absent: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._peers, self._processes = peers, {}

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *_) -> None:
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
            # Libraries are loaded, and caches filled, by what does not count.
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
        answer = json.loads(line) if line else {"error": f"its process ended, {process.poll()}"}
        if "error" in answer:
            self.absent[name] = answer["error"]
            return None
        self.versions |= answer["versions"]
        return answer


def _start(python: str, name: str) -> subprocess.Popen:
    environment = dict(os.environ)
    if name in OURS:
        # Ours is this very copy of ivx.
        environment["PYTHONPATH"] = str(pathlib.Path(__file__).parents[3])
    return subprocess.Popen(
        [python, str(_WORKER), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def _judged(rows: list[dict]) -> list[dict]:
    """Every target whose two sides were measured."""
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
    """The result for reading."""
    facts = {**result["machine"], **result["versions"]}
    lines = [
        ", ".join(f"{name} {value}" for name, value in facts.items()),
        f"load {result['load'][0]} before, {result['load'][1]} after; medians of"
        f" {result['repeats']} turns of processor time",
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
    for one in result["targets"]:
        lines.append(
            f"{one['ours']} / {one['other']}, {one['count'] or 'all'} frames of {one['clip']}:"
            f" {one['ratio']:.2f}, wanted at most {one['most']:g}{'' if one['met'] else ': MISSED'}"
        )
    lines += [f"absent: {name}: {why}" for name, why in result["absent"].items()]
    return "\n".join(lines)
