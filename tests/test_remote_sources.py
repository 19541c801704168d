"""Media and annotations in buckets: read like local ones, limited in size, named in errors."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from data_pipelines import loader, local_copy, plan, sources
from data_pipelines.media_error import MediaError
from data_pipelines.video import decode
from tests.annotations import TEXT_RECORD, data_set, frames_of, mixture, video_messages
from tests.test_image import gradient


def test_bucket_video_gives_the_pixels_of_a_local_copy(tmp_path, bucket, data_folder, rule, shape):
    """Only the mixture names the bucket; probing, decoding and packing use the same code."""
    path = mixture(tmp_path, media_root="gs://bucket/v")
    (tmp_path / "x.jsonl").write_text(json.dumps({"messages": video_messages()}) + "\n")
    [member] = sources.read_mixture(path, ("x",))
    [sample] = sources.read_samples(member)
    assert sample.videos[0].path == "gs://bucket/v/a.mp4"
    (tmp_path / "a.mp4").write_bytes(bucket.cat("/bucket/v/a.mp4"))
    local_sample = dataclasses.replace(
        sample, videos=(sources.VideoRef(str(tmp_path / "a.mp4"), None),)
    )
    remote, local = (rule.lay_out(s).read_patches()[0] for s in (sample, local_sample))
    np.testing.assert_array_equal(np.concatenate(remote), np.concatenate(local))
    measured = plan.measure([sample], rule, shape)
    packs = plan.make_plan([plan.Member(measured, 1.0)], shape, 2, 2, seed=0)
    options = loader.LoaderOptions(workers=0, threads=1, prefetch=1, cache_bytes=0)
    bucket.rm("/bucket/v/a.mp4")
    [batch] = loader.batches(packs, rule, shape, 2, 0, options)
    assert "gs://bucket/v/a.mp4: no such file" in batch.skipped[0]


def test_bucket_frame_folders_and_images_are_read(tmp_path, bucket, rule):
    for file in frames_of(tmp_path / "clip", 4).iterdir():
        bucket.pipe(f"/bucket/v/clip/{file.name}", file.read_bytes())
    video, image = video_messages(url="clip"), {"type": "image_url", "image_url": {"url": "p.png"}}
    Image.fromarray(gradient(70, 40)).save(tmp_path / "p.png")
    bucket.pipe("/bucket/v/p.png", (tmp_path / "p.png").read_bytes())
    video[0]["content"] += [image, {"type": "text", "text": "<IMG_CONTEXT>"}]
    member = data_set(tmp_path, {"messages": video})
    [entry] = sources.read_mixture(mixture(tmp_path, media_root="gs://bucket/v"), ("x",))
    member = data_set(tmp_path, {"messages": video}, media_root=entry.media_root)
    [sample] = sources.read_samples(member)
    assert [len(clip.read()) for clip in rule.lay_out(sample).clips] == [4, 2]


def test_bucket_annotations_are_read(tmp_path, bucket):
    bucket.pipe("/bucket/x/a.jsonl", json.dumps({"id": 7, **TEXT_RECORD}).encode() + b"\n")
    for annotation in ("gs://bucket/x/a.jsonl", "gs://bucket/x"):
        path = mixture(tmp_path, annotation=annotation, media_root="gs://bucket/v")
        [member] = sources.read_mixture(path, ("x",))
        assert [sample.id for sample in sources.read_samples(member)] == ["7"]


def test_bucket_errors_name_the_address_and_size_is_limited(bucket, monkeypatch):
    bucket.pipe("/bucket/v/b.mp4", b"no video")
    ref = sources.VideoRef("gs://bucket/v/b.mp4", None)
    with pytest.raises(MediaError, match=r"^gs://bucket/v/b.mp4: not a readable video") as error:
        ref.resolved()
    assert error.value.cause == "unreadable"
    with pytest.raises(MediaError, match=r"gs://bucket/v/c.mp4: no such file"):
        sources.VideoRef("gs://bucket/v/c.mp4", None).resolved()
    monkeypatch.setattr(local_copy, "MAX_BYTES", 5)
    with pytest.raises(MediaError, match="8 bytes; at most 5 are allowed"):
        ref.resolved()


@pytest.mark.skipif(importlib.util.find_spec("s3fs") is not None, reason="the client is installed")
def test_missing_bucket_client_error_names_the_package():
    with pytest.raises(MediaError, match=r"s3://bucket/a.mp4: .*s3fs"):
        sources.VideoRef("s3://bucket/a.mp4", None).resolved()


def test_local_files_are_not_copied(data_folder):
    clip = next((data_folder / "clips" / "train").iterdir())
    with local_copy.local(str(clip)) as path:
        assert path == str(clip)
    assert decode.probe(clip) == sources.VideoRef(str(clip), None).resolved()
