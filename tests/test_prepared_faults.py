"""Truncated, damaged or malicious prepared folders give one-sentence errors."""

import json
import os
import shutil

import numpy as np
import pytest

from data_pipelines import local_copy, sources
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import manifest, proxy, read, shards, write
from data_pipelines.video.info import VideoInfo
from ivx import config as configs
from ivx import from_config
from ivx.errors import UserError
from tests.test_prepared import NAMES, SHARDS, mixture, prepared  # noqa: F401


@pytest.fixture
def copy(prepared, tmp_path):  # noqa: F811
    shutil.copytree(prepared, tmp_path / "out")
    return tmp_path / "out"


def test_preparation_resumes_after_its_originals_are_deleted(mixture, rule, tmp_path):  # noqa: F811
    """The files of each shard are recorded, because sizes on disk may change."""
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(mixture.parent, data)
    options = write.Options(workers=0, **SHARDS)
    first = write.prepare(data / "data.json", NAMES, out, rule, options)
    assert len(first["media"]["shards"]) > 2
    shutil.rmtree(data / "clips" / "train")
    (out / "synthetic_train" / "00001.json").unlink()
    assert write.prepare(data / "data.json", NAMES, out, rule, options) == first


def test_data_set_cannot_be_named_media(mixture, rule, tmp_path):  # noqa: F811
    entries = {"media": {"annotation": str(mixture.parent / "pictures.jsonl")}}
    (tmp_path / "data.json").write_text(json.dumps(entries))
    with pytest.raises(sources.AnnotationError, match="name of data set media is reserved"):
        write.prepare(tmp_path / "data.json", ("media",), tmp_path / "out", rule, write.Options(0))


def test_evaluation_rejects_a_data_set_that_lacks_samples(copy):
    """Training reports the missing samples instead."""
    path = copy / "pictures" / manifest.FILE
    facts = json.loads(path.read_text())
    facts["left_out"] = ["sample q: gone"]
    path.write_text(json.dumps(facts))
    config = configs.tiny()
    config.data.mixture = str(copy / "data.json")
    with pytest.raises(UserError, match="sample q: gone"):
        from_config.data.samples(config, ("pictures",))
    [(_, samples)] = from_config.data.samples(config, ("pictures",), training=True)
    assert len(samples) == 1


def test_truncated_shard_is_named(copy):
    path = copy / "synthetic_train" / "00000.array_record"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(sources.AnnotationError, match=r"00000.array_record has .* bytes instead"):
        read.PreparedSamples(copy / "synthetic_train")
    with pytest.raises(MediaError, match="record 0 "):
        shards.record(str(path), 0)


@pytest.mark.parametrize("damage", [b"PK\x03\x04 not a zip", b""])
def test_damaged_columns_are_named(copy, damage):
    samples = read.PreparedSamples(copy / "pictures")
    (copy / "pictures" / "00000.npz").write_bytes(damage)
    with pytest.raises(sources.AnnotationError, match=r"00000.npz cannot be read"):
        samples.sizes()


@pytest.mark.parametrize("name", ["../media/00000.array_record", "/etc/passwd", "a.array_record"])
def test_manifest_cannot_name_shards_of_another_folder(copy, name):
    path = copy / "pictures" / manifest.FILE
    facts = json.loads(path.read_text())
    facts["shards"][0]["file"] = name
    path.write_text(json.dumps(facts))
    with pytest.raises(sources.AnnotationError, match="is not a shard name"):
        read.PreparedSamples(copy / "pictures")


def test_record_address_cannot_leave_media_root_through_a_link(copy, tmp_path):
    """A link to a record file elsewhere is rejected, like a link to a video."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "e.array_record").symlink_to(copy / "media" / "00000.array_record")
    message = {"type": "video_url", "video_url": {"url": "e.array_record#0/a.mp4"}}
    content = [message, {"type": "text", "text": "<VIDEO_CONTEXT>What?"}]
    answer = {"role": "assistant", "content": "That."}
    record = {"id": "e", "messages": [{"role": "user", "content": content}, answer]}
    with pytest.raises(sources.AnnotationError, match="leads out of the media_root"):
        sources.parse_sample(record, "x.jsonl:1", tmp_path / "root")


def test_address_of_too_many_records_is_ignored():
    assert shards.frames("a.array_record#0-999999999/c") == []
    assert shards.frames("a.array_record#0-" + "9" * 5000) == []
    assert len(shards.frames("a.array_record#3-7/c")) == 5


def test_record_exists_if_its_file_exists(copy):
    path = copy / "media" / "00000.array_record"
    assert local_copy.exists(f"{path}#0/a.mp4")
    path.unlink()
    assert not local_copy.exists(f"{path}#0/a.mp4")


@pytest.mark.parametrize("fps", [0.5, 0.7, 2.0])
def test_proxy_is_at_least_as_long_as_the_original(fps):
    info = VideoInfo(width=64, height=64, num_frames=297, rate=30.0)
    indices = proxy.indices(info, fps)
    assert len(indices) / fps >= 9.9 and indices.max() < 297 and (np.diff(indices) > 0).all()
