"""Every file of a prepared folder has a checksum, and changed files are named."""

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


def flip_bit(path) -> None:
    """Flips one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def causes(folder, names=NAMES) -> dict[str, str]:
    """Path within the folder -> cause of its fault."""
    faults = checksums.faults(folder, names)
    assert all(fault.sentence.startswith(fault.where) for fault in faults)
    return {os.path.relpath(fault.where, folder): fault.cause for fault in faults}


def test_sha256sum_accepts_the_checksums(prepared):  # noqa: F811
    """SHA256SUMS lists all files except itself."""
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=prepared, check=True)
    lines = (prepared / "SHA256SUMS").read_text().splitlines()
    files = {str(file.relative_to(prepared)) for file in prepared.rglob("*") if file.is_file()}
    assert {line.split("  ")[1] for line in lines} == files - {"SHA256SUMS"}
    assert causes(prepared) == {}


def test_flipped_bit_is_found_in_every_file(copy):
    """No other file is reported."""
    for file in sorted(file for file in copy.rglob("*") if file.is_file()):
        before, path = file.read_bytes(), str(file.relative_to(copy))
        flip_bit(file)
        faults = causes(copy)
        if path == checksums.FILE:
            assert faults and set(faults.values()) <= {"not as written", "file missing"}
        else:
            assert faults == {path: "not as written"}
        file.write_bytes(before)
    assert causes(copy) == {}


def test_truncated_and_missing_files_have_their_own_causes(copy):
    truncated = copy / "media" / "00001.array_record"
    os.truncate(truncated, truncated.stat().st_size - 1)
    (copy / "synthetic_train" / "00001.npz").unlink()
    (copy / "pictures" / "manifest.json").unlink()
    assert causes(copy) == {
        "media/00001.array_record": "cut off",
        "synthetic_train/00001.npz": "file missing",
        "pictures/manifest.json": "file missing",
    }
    assert set(causes(copy, ["synthetic_train"])) == {
        "media/00001.array_record",
        "synthetic_train/00001.npz",
    }


def test_checksum_file_with_a_missing_line_is_rejected(copy):
    """So is one that is missing, is not text, or names files outside the folder."""
    path = copy / checksums.FILE
    lines = path.read_text().splitlines()
    for damaged in (lines[1:], lines[:-1], []):
        path.write_text("\n".join(damaged))
        assert causes(copy) == {checksums.FILE: "not as written"}
    path.write_text("\n".join([*lines, f"{'0' * 64}  ../secret"]))
    [fault] = checksums.faults(copy, NAMES)
    assert f"damaged in line {len(lines) + 1}" in fault.sentence
    path.write_bytes(b"\xff\xfe")
    assert causes(copy)[checksums.FILE] == "not as written"
    path.unlink()
    assert causes(copy) == {checksums.FILE: "file missing"}


def test_data_check_names_changed_files_and_exits_with_1(copy):
    good = data_check.check(str(copy / "data.json"), (), configs.tiny())
    assert good["ok"] and good["data_sets"]["synthetic_train"]["samples"] > 8
    flip_bit(copy / "media" / "00000.array_record")
    (copy / "pictures" / "00000.array_record").unlink()
    bad = ivx("data", "check", f"--mixture={copy / 'data.json'}", "--json")
    assert bad.returncode == 1 and bad.stdout, bad.stderr
    report = json.loads(bad.stdout.splitlines()[-1])
    assert {fault["where"]: fault["cause"] for fault in report["faults"]} == {
        str(copy / "media" / "00000.array_record"): "not as written",
        str(copy / "pictures" / "00000.array_record"): "file missing",
    }
    assert "run the same `ivx data prepare` again" in bad.stdout


def test_mixture_elsewhere_checks_only_the_data_sets_it_uses(copy, tmp_path):
    """Other data sets of the prepared folder may be damaged."""
    mixture_file = tmp_path / "mine.json"
    mixture_file.write_text(json.dumps({"a": {"annotation": "out/pictures"}}))
    flip_bit(copy / "synthetic_train" / "00000.npz")
    assert data_check.check(str(mixture_file), (), configs.tiny())["ok"]
    (copy / "pictures" / "manifest.json").unlink()
    report = data_check.check(str(mixture_file), (), configs.tiny())
    assert [fault["cause"] for fault in report["faults"]] == ["file missing"]


def test_deleted_damaged_shards_are_prepared_again(mixture, rule, tmp_path):  # noqa: F811
    """This is the remedy in the error message."""
    out, options = tmp_path / "out", write.Options(workers=0, **SHARDS)
    write.prepare(mixture, NAMES, out, rule, options)
    for path in ("media/00000.npz", "synthetic_train/00000.array_record"):
        flip_bit(out / path)
    assert len(causes(out)) == 2
    for path in causes(out):
        (out / path).unlink()
    write.prepare(mixture, NAMES, out, rule, options)
    assert causes(out) == {}
    assert len(read.PreparedSamples(out / "synthetic_train")) > 8
    assert len(sources.prepared_folders(out / "data.json", NAMES)[out]) == 2
