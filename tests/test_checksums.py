"""Every file of a prepared folder has a checksum, and what differs from it is named."""

import json
import os
import shutil
import subprocess

import pytest

from data_pipelines import sources
from data_pipelines.prepared import checksums, read, write
from ivx import config as configs
from ivx.commands import data_check
from tests.command import ivx
from tests.test_prepared import NAMES, SHARDS, mixture, prepared  # noqa: F401


@pytest.fixture
def copy(prepared, tmp_path):  # noqa: F811
    shutil.copytree(prepared, tmp_path / "out")
    return tmp_path / "out"


def flip(path) -> None:
    """One bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def named(folder, names=NAMES) -> dict[str, str]:
    """File within the folder -> cause."""
    faults = checksums.faults(folder, names)
    assert all(fault.sentence.startswith(fault.where) for fault in faults)
    return {os.path.relpath(fault.where, folder): fault.cause for fault in faults}


def test_sums_are_those_of_sha256sum(prepared):  # noqa: F811
    """Of all files but the one that holds them."""
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=prepared, check=True)
    lines = (prepared / "SHA256SUMS").read_text().splitlines()
    files = {str(file.relative_to(prepared)) for file in prepared.rglob("*") if file.is_file()}
    assert {line.split("  ")[1] for line in lines} == files - {"SHA256SUMS"}
    assert named(prepared) == {}


def test_each_file_is_looked_at(copy):
    """A flipped bit in any one of them is found, and nothing else is blamed."""
    for file in sorted(file for file in copy.rglob("*") if file.is_file()):
        before, path = file.read_bytes(), str(file.relative_to(copy))
        flip(file)
        found = named(copy)
        if path == checksums.FILE:
            assert found and set(found.values()) <= {"not as written", "file missing"}
        else:
            assert found == {path: "not as written"}
        file.write_bytes(before)
    assert named(copy) == {}


def test_what_is_cut_off_or_missing_is_named_as_such(copy):
    cut = copy / "media" / "00001.array_record"
    os.truncate(cut, cut.stat().st_size - 1)
    (copy / "synthetic_train" / "00001.npz").unlink()
    (copy / "pictures" / "manifest.json").unlink()
    assert named(copy) == {
        "media/00001.array_record": "cut off",
        "synthetic_train/00001.npz": "file missing",
        "pictures/manifest.json": "file missing",
    }
    assert set(named(copy, ["synthetic_train"])) == {
        "media/00001.array_record",
        "synthetic_train/00001.npz",
    }


def test_sums_that_lost_a_line_do_not_pass(copy):
    """Nor do those that are gone or name files elsewhere."""
    path = copy / checksums.FILE
    lines = path.read_text().splitlines()
    for damaged in (lines[1:], lines[:-1], []):
        path.write_text("\n".join(damaged))
        assert named(copy) == {checksums.FILE: "not as written"}
    path.write_text("\n".join([*lines, f"{'0' * 64}  ../secret"]))
    [fault] = checksums.faults(copy, NAMES)
    assert f"damaged in line {len(lines) + 1}" in fault.sentence
    path.write_bytes(b"\xff\xfe")
    assert named(copy)[checksums.FILE] == "not as written"
    path.unlink()
    assert named(copy) == {checksums.FILE: "file missing"}


def test_the_command_names_what_differs_and_exits_with_1(copy):
    good = data_check.check(str(copy / "data.json"), (), configs.tiny())
    assert good["ok"] and good["data_sets"]["synthetic_train"]["samples"] > 8
    flip(copy / "media" / "00000.array_record")
    (copy / "pictures" / "00000.array_record").unlink()
    bad = ivx("data", "check", f"--mixture={copy / 'data.json'}", "--json")
    assert bad.returncode == 1, bad.stderr
    found = json.loads(bad.stdout.splitlines()[-1])
    assert {fault["where"]: fault["cause"] for fault in found["faults"]} == {
        str(copy / "media" / "00000.array_record"): "not as written",
        str(copy / "pictures" / "00000.array_record"): "file missing",
    }
    assert "run the same `ivx data prepare` again" in bad.stdout


def test_a_mixture_of_ones_own_is_checked_where_its_data_lie(copy, tmp_path):
    """Of the folder, what the mixture does not use does not matter."""
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"a": {"annotation": "out/pictures"}}))
    flip(copy / "synthetic_train" / "00000.npz")
    assert data_check.check(str(mine), (), configs.tiny())["ok"]
    (copy / "pictures" / "manifest.json").unlink()
    found = data_check.check(str(mine), (), configs.tiny())
    assert [fault["cause"] for fault in found["faults"]] == ["file missing"]


def test_a_damaged_shard_is_deleted_and_prepared_again(mixture, rule, tmp_path):  # noqa: F811
    """As the sentence says."""
    out, how = tmp_path / "out", write.Options(workers=0, **SHARDS)
    write.prepare(mixture, NAMES, out, rule, how)
    for path in ("media/00000.npz", "synthetic_train/00000.array_record"):
        flip(out / path)
    assert len(named(out)) == 2
    for path in named(out):
        (out / path).unlink()
    write.prepare(mixture, NAMES, out, rule, how)
    assert named(out) == {}
    assert len(read.PreparedSamples(out / "synthetic_train")) > 8
    assert len(sources.prepared_folders(out / "data.json", NAMES)[out]) == 2
