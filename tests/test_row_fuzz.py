"""Annotation rows that are mutated field by field: a fault of the row, never an exception.

The other rows of the file are read, laid out and decoded all the same.
"""

import copy
import functools
import json
import shutil

import hypothesis
import pytest
from hypothesis import strategies as st

from data_pipelines import loader, plan, sources
from data_pipelines.frame_cache import FrameCache
from data_pipelines.prepared import write
from data_pipelines.sources import reading, statistics
from data_pipelines.video import decode
from ivx.evaluation import scoring, text_only
from ivx.judging import rewards
from tests.annotations import ANSWER, frames_of, video_messages

INFO = {"image_wh": [64, 64], "origin_video_length": 24, "origin_fps": 8.0}
TOOL = {"type": "function", "function": {"name": "see", "description": "d", "parameters": {}}}
OPENAI = {"id": "1", "type": "function", "function": {"name": "see", "arguments": '{"t": 3}'}}
CHOICE = {"family": "x", "format": "choice", "answer": "b", "options": ["red", "green"]}
SPAN = {"family": "x", "format": "open", "answer": "1 to 2", "span": [1, 2], "spans": [[1, 2]]}
TEXT = {"type": "text", "text": "<VIDEO_CONTEXT>When?", "conversation_timestamps": [[1, 2]]}
ROWS = {
    "messages": [
        {"messages": video_messages(url="a.mp4", **INFO, span=[1, 2], fps=2), "truths": [CHOICE]},
        {
            "messages": video_messages(
                url="clip",
                image_wh=[[64, 32]],
                processed_video_length=7,
                processed_fps=0.5,
                frames_timestamp=[0, 1, 2, 3, 4, 5, 6],
            ),
            "truths": [SPAN],
        },
        {
            "messages": [
                {"role": "system", "content": "Hi", "loss": True},
                {"role": "user", "content": [video_messages(url="a.mp4")[0]["content"][0], TEXT]},
                {"role": "assistant", "content": None, "tool_calls": [OPENAI], "loss": False},
                {
                    "role": "tool",
                    "content": [
                        {
                            "type": "image_url",
                            "image_url": {"url": "clip/00000001.jpg", "image_wh": [64, 32]},
                        },
                        {"type": "text", "text": "<IMG_CONTEXT>"},
                    ],
                },
                ANSWER | {"thinking": "Hm", "name": "x", "meta": {"a": 1}},
            ],
            "tools": [TOOL],
            "overrides": {"fps": 2, "video_max_frames": 8, "max_pixels": 65536},
        },
        {"messages": [{"role": "pretrain", "content": "A cat."}]},
    ],
    "charades": [{"vid": "a", "duration": 3.0, "timestamps": [[1, 2]], "sentences": ["b"]}],
    "timelens": [
        {"vid": "a", "duration": 3.0, "queries": ["b"], "spans": [[1, 2]]},
        {"video_path": "a.mp4", "duration": 3.0, "events": [{"query": "b", "span": [[1, 2]]}]},
    ],
    "qvhighlights": [
        {"qid": 1, "query": "b", "vid": "a", "duration": 3, "relevant_windows": [[1, 2]]}
    ],
    "video_r1": [
        {
            "problem_id": 2,
            "problem": "What?",
            "data_type": "video",
            "problem_type": "multiple choice",
            "options": ["A. cat", "B. dog"],
            "solution": "<answer>B</answer>",
            "path": "./a.mp4",
        }
    ],
    "internvideo3": [{"v": "a", "i": "1", "pairs": [{"q": "What?", "a": "Red."}]}],
}
FIELDS = {"video": "v", "question": "q", "answer": "a", "qa": "pairs", "id": "i"}
DEEP = json.loads("[" * 150 + "]" * 150)
EVIL = st.one_of(
    st.sampled_from([None, True, False, 0, 1, -1, 0.5, 1e308, -1e308, 1e-310, 10**400, -(10**400)]),
    st.sampled_from([float("nan"), float("inf"), 2**31, 2**63, 2**64, 1e18, 10**4299]),
    st.sampled_from(["", " ", "\0", "a\0.mp4", "\ud800", "\udcff.mp4", "a" * 300, "../a.mp4", "/"]),
    st.sampled_from(["/etc/passwd", ".", "..", ".a.mp4", "gs://b/a.mp4", "a/" * 3000, "loop.mp4"]),
    st.sampled_from(["<VIDEO_CONTEXT>", "<|im_end|>", "<think>", "[" * 9999, "\x1b[31m", "12:30"]),
    st.sampled_from([[], {}, [[]], [None], {"a": 1}, [1, 2], [2, 1], [0, 0], [1e308, 1e309], DEEP]),
    st.text(st.characters(), max_size=8),
    st.integers(),
    st.floats(),
    st.recursive(st.none() | st.integers() | st.text(max_size=3), st.lists, max_leaves=6),
)  # fmt: skip


def paths(value: object, path: tuple = ()) -> list[tuple]:
    """The path of every part of a row, to a depth beyond that of any valid row."""
    if len(path) > 9:
        return [path]
    keys = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    return [path, *(found for key in keys for found in paths(value[key], (*path, key)))]


def evil(draw: st.DrawFn) -> object:
    """A copy, because a second mutation may change it."""
    return copy.deepcopy(draw(EVIL))


@st.composite
def mutated(draw: st.DrawFn, form: str) -> object:
    """A valid row of a format in which one or two parts are removed, replaced or added."""
    row = copy.deepcopy(draw(st.sampled_from(ROWS[form])))
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(paths(row)))
        if not path:
            return evil(draw)
        parent = row
        for key in path[:-1]:
            parent = parent[key]
        action = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if action == "remove":
            del parent[path[-1]]
        elif action == "add" and isinstance(parent, dict):
            key = draw(st.sampled_from(["id", "loss", "tools", "surprise", "\ud800"]))
            parent[key] = evil(draw)
        else:
            parent[path[-1]] = evil(draw)
        if not isinstance(row, dict):
            break
    return row


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data_folder):
    """A folder with media for the rows."""
    folder = tmp_path_factory.mktemp("fuzz")
    shutil.copy(next((data_folder / "clips" / "train").iterdir()), folder / "a.mp4")
    frames_of(folder / "clip")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    with pytest.MonkeyPatch.context() as patch:
        # Every row names the same few files; each is probed once.
        patch.setattr(decode, "probe", functools.cache(decode.probe))
        yield folder


def member(folder, form: str, rows: list) -> sources.DataSet:
    file = folder / f"{form}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return sources.DataSet(
        "x", (file,), folder, 1.0, form, FIELDS if form == "internvideo3" else {}
    )


def whole(form: str, name: str) -> dict:
    """A valid row whose sample is found again by its name."""
    row = copy.deepcopy(ROWS[form][0])
    key = {"messages": "id", "video_r1": "problem_id", "internvideo3": "i", "qvhighlights": "qid"}
    return row | {key.get(form, "vid"): name, **({"id": name} if form == "messages" else {})}


def try_rows(folder, rule, shape, form: str, count: int) -> None:
    """Reads, lays out, decodes and scores `count` mutated rows, each between two good ones."""
    pack_loader, faults = loader.PackLoader(rule, shape, FrameCache(2**26)), []

    @hypothesis.settings(max_examples=count, deadline=None, database=None, derandomize=True)
    @hypothesis.given(mutated(form))
    def check(row: object) -> None:
        data = member(folder, form, [whole(form, "first"), row, whole(form, "last")])
        result = sources.read(data)
        for fault in result.faults:
            assert ":2" in fault.where and fault.sentence.isprintable()
            assert reading.UNFORESEEN not in fault.sentence
        names = [sample.id for sample in result.samples]
        assert names[0].startswith("first") and names[-1].startswith("last")
        found = statistics.collect(data, rule)
        measured = plan.measure(result.samples, rule, shape)
        assert found.samples + len(found.faults) >= 2 and len(measured.samples) >= 2
        for sample in measured.samples:
            pack_loader.load([sample])
        for sample in result.samples:
            for text, truth in text_only.questions(sample):
                assert 0 <= rewards.reward_of(truth)("(A) 1 to 2", truth) <= 1
                one = scoring.Prediction("", truth["family"], text, truth, "", "B")
                assert len(scoring.table([one])) == 1
        faults.append(len(found.faults))

    for name in ("first", "last"):  # some formats find the video by the name of the row
        shutil.copy(folder / "a.mp4", folder / f"{name}.mp4")
    check()
    assert sum(faults) > len(faults) // 3


@pytest.mark.parametrize("form", sorted(ROWS))
def test_mutated_row_is_a_fault_and_other_rows_are_trained_on(folder, rule, shape, form):
    try_rows(folder, rule, shape, form, 20)


@pytest.mark.slow
@pytest.mark.parametrize("form", sorted(ROWS))
def test_thousand_mutated_rows_are_faults(folder, rule, shape, form):
    try_rows(folder, rule, shape, form, 1000)


def test_mutated_rows_are_prepared_or_left_out(folder, rule, tmp_path):
    """One preparation of many rows, of which those that cannot be read are named."""
    rows = [whole("messages", "first")]

    @hypothesis.settings(max_examples=80, deadline=None, database=None, derandomize=True)
    @hypothesis.given(mutated("messages"))
    def collect(row: object) -> None:
        rows.append(row)

    collect()
    file = folder / "many.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "many.json").write_text(json.dumps({"x": {"annotation": "many.jsonl"}}))
    options = write.Options(workers=0, max_bad_samples=len(rows))
    manifest = write.prepare(folder / "many.json", ["x"], tmp_path / "out", rule, options)
    facts = manifest["data_sets"]["x"]
    assert facts["statistics"]["samples"] >= 1 and facts["faults"]
    [prepared] = sources.read_mixture(tmp_path / "out" / "data.json", ("x",))
    read = sources.read(prepared)
    assert len(read.samples) == facts["statistics"]["samples"] and not read.faults
