"""A prepared folder cut off, damaged or made to mislead: one sentence, and nothing is read."""

import json
import os
import shutil

import numpy as np
import pytest

from data_pipelines import nearby, sources
from data_pipelines.media_error import MediaError
from data_pipelines.prepared import manifest, proxy, read, shards, write
from data_pipelines.video.info import VideoInfo
from ivx import build
from ivx import config as configs
from ivx.errors import UserError
from tests.test_prepared import NAMES, SHARDS, mixture, prepared  # noqa: F401


@pytest.fixture
def copy(prepared, tmp_path):  # noqa: F811
    shutil.copytree(prepared, tmp_path / "out")
    return tmp_path / "out"


def test_a_preparation_goes_on_when_its_originals_are_gone(mixture, rule, tmp_path):  # noqa: F811
    """Which files a shard has is written down: sizes on the disk may have changed since."""
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(mixture.parent, data)
    how = write.Options(workers=0, **SHARDS)
    first = write.prepare(data / "data.json", NAMES, out, rule, how)
    assert len(first["media"]["shards"]) > 2
    shutil.rmtree(data / "clips" / "train")
    (out / "synthetic_train" / "00001.json").unlink()
    assert write.prepare(data / "data.json", NAMES, out, rule, how) == first


def test_a_data_set_cannot_take_the_place_of_the_media(mixture, rule, tmp_path):  # noqa: F811
    entries = {"media": {"annotation": str(mixture.parent / "pictures.jsonl")}}
    (tmp_path / "data.json").write_text(json.dumps(entries))
    with pytest.raises(sources.AnnotationError, match="data set media would lie where"):
        write.prepare(tmp_path / "data.json", ("media",), tmp_path / "out", rule, write.Options(0))


def test_an_evaluation_refuses_what_lacks_samples(copy):
    """As it refuses the loose files of which one cannot be read; training names what is missing."""
    path = copy / "pictures" / manifest.FILE
    facts = json.loads(path.read_text())
    facts["left_out"] = ["sample q: gone"]
    path.write_text(json.dumps(facts))
    config = configs.tiny()
    config.data.mixture = str(copy / "data.json")
    with pytest.raises(UserError, match="sample q: gone"):
        build.samples(config, ("pictures",))
    [(_, found)] = build.samples(config, ("pictures",), training=True)
    assert len(found) == 1


def test_a_shard_that_was_cut_off_is_named(copy):
    path = copy / "synthetic_train" / "00000.array_record"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(sources.AnnotationError, match=r"00000.array_record has .* bytes of"):
        read.PreparedSamples(copy / "synthetic_train")
    with pytest.raises(MediaError, match="record 0 "):
        shards.record(str(path), 0)


@pytest.mark.parametrize("damage", [b"PK\x03\x04 no zip", b""])
def test_damaged_columns_are_named(copy, damage):
    samples = read.PreparedSamples(copy / "pictures")
    (copy / "pictures" / "00000.npz").write_bytes(damage)
    with pytest.raises(sources.AnnotationError, match=r"00000.npz cannot be read"):
        samples.table()


@pytest.mark.parametrize("name", ["../media/00000.array_record", "/etc/passwd", "a.array_record"])
def test_a_manifest_names_shards_of_its_own_folder_alone(copy, name):
    path = copy / "pictures" / manifest.FILE
    facts = json.loads(path.read_text())
    facts["shards"][0]["file"] = name
    path.write_text(json.dumps(facts))
    with pytest.raises(sources.AnnotationError, match="is no name of a shard"):
        read.PreparedSamples(copy / "pictures")


def test_an_address_of_a_record_leads_out_of_the_folder_by_no_link(copy, tmp_path):
    """A link to a file of records elsewhere is refused, like one to a video."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "e.array_record").symlink_to(copy / "media" / "00000.array_record")
    message = {"type": "video_url", "video_url": {"url": "e.array_record#0/a.mp4"}}
    content = [message, {"type": "text", "text": "<VIDEO_CONTEXT>What?"}]
    said = {"role": "assistant", "content": "That."}
    record = {"id": "e", "messages": [{"role": "user", "content": content}, said]}
    with pytest.raises(sources.AnnotationError, match="leads out of the media_root"):
        sources.sample(record, "x.jsonl:1", tmp_path / "root")


def test_an_address_of_many_records_takes_no_memory():
    assert shards.frames("a.array_record#0-999999999/c") == []
    assert shards.frames("a.array_record#0-" + "9" * 5000) == []
    assert len(shards.frames("a.array_record#3-7/c")) == 5


def test_a_record_is_there_if_its_file_is(copy):
    path = copy / "media" / "00000.array_record"
    assert nearby.exists(f"{path}#0/a.mp4")
    path.unlink()
    assert not nearby.exists(f"{path}#0/a.mp4")


@pytest.mark.parametrize("fps", [0.5, 0.7, 2.0])
def test_a_proxy_is_as_long_as_the_original_at_least(fps):
    info = VideoInfo(width=64, height=64, num_frames=297, rate=30.0)
    chosen = proxy.indices(info, fps)
    assert len(chosen) / fps >= 9.9 and chosen.max() < 297 and (np.diff(chosen) > 0).all()
