"""Media and annotations in buckets: read like those beside, bounded, and named in errors."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from data_pipelines import loader, nearby, plan, sources
from data_pipelines.media_error import MediaError
from data_pipelines.video import decode
from tests.annotations import WORDS, data_set, frames_of, mixture, shown
from tests.test_image import gradient


def test_videos_in_a_bucket_are_read_like_those_beside(tmp_path, bucket, data_folder, rule, shape):
    """The mixture names the bucket; probing, decoding and packing go the one way."""
    path = mixture(tmp_path, media_root="gs://bucket/v")
    (tmp_path / "x.jsonl").write_text(json.dumps({"messages": shown()}) + "\n")
    [member] = sources.read_mixture(path, ("x",))
    [sample] = sources.read_samples(member)
    assert sample.videos[0].path == "gs://bucket/v/a.mp4"
    (tmp_path / "a.mp4").write_bytes(bucket.cat("/bucket/v/a.mp4"))
    beside = dataclasses.replace(sample, videos=(sources.VideoRef(str(tmp_path / "a.mp4"), None),))
    far, near = (rule(one).read_patches()[0] for one in (sample, beside))
    np.testing.assert_array_equal(np.concatenate(far), np.concatenate(near))
    measured = plan.measure([sample], rule, shape)
    packs = plan.make_plan([plan.Member(measured, 1.0)], shape, 2, 2, seed=0)
    options = loader.LoaderOptions(workers=0, threads=1, prefetch=1, cache_bytes=0)
    bucket.rm("/bucket/v/a.mp4")
    [batch] = loader.batches(packs, rule, shape, 2, 0, options)
    assert "gs://bucket/v/a.mp4: no such file" in batch.skipped[0]


def test_frames_and_images_in_a_bucket(tmp_path, bucket, rule):
    for file in frames_of(tmp_path / "clip", 4).iterdir():
        bucket.pipe(f"/bucket/v/clip/{file.name}", file.read_bytes())
    video, image = shown(url="clip"), {"type": "image_url", "image_url": {"url": "p.png"}}
    Image.fromarray(gradient(70, 40)).save(tmp_path / "p.png")
    bucket.pipe("/bucket/v/p.png", (tmp_path / "p.png").read_bytes())
    video[0]["content"] += [image, {"type": "text", "text": "<IMG_CONTEXT>"}]
    member = data_set(tmp_path, {"messages": video})
    [entry] = sources.read_mixture(mixture(tmp_path, media_root="gs://bucket/v"), ("x",))
    member = data_set(tmp_path, {"messages": video}, media_root=entry.media_root)
    [sample] = sources.read_samples(member)
    assert [len(clip.read()) for clip in rule(sample).clips] == [4, 2]


def test_annotations_may_lie_in_a_bucket(tmp_path, bucket):
    bucket.pipe("/bucket/x/a.jsonl", json.dumps({"id": 7, **WORDS}).encode() + b"\n")
    for annotation in ("gs://bucket/x/a.jsonl", "gs://bucket/x"):
        path = mixture(tmp_path, annotation=annotation, media_root="gs://bucket/v")
        [member] = sources.read_mixture(path, ("x",))
        assert [sample.id for sample in sources.read_samples(member)] == ["7"]


def test_what_is_remote_is_bounded_and_its_errors_name_it(bucket, monkeypatch):
    bucket.pipe("/bucket/v/b.mp4", b"no video")
    ref = sources.VideoRef("gs://bucket/v/b.mp4", None)
    with pytest.raises(MediaError, match=r"^gs://bucket/v/b.mp4: not a readable video"):
        ref.resolved()
    with pytest.raises(MediaError, match=r"gs://bucket/v/c.mp4: no such file"):
        sources.VideoRef("gs://bucket/v/c.mp4", None).resolved()
    monkeypatch.setattr(nearby, "MAX_BYTES", 5)
    with pytest.raises(MediaError, match="8 bytes; allowed are 5"):
        ref.resolved()


@pytest.mark.skipif(importlib.util.find_spec("s3fs") is not None, reason="the client is here")
def test_a_bucket_without_its_client_says_what_to_install():
    with pytest.raises(MediaError, match=r"s3://bucket/a.mp4: .*s3fs"):
        sources.VideoRef("s3://bucket/a.mp4", None).resolved()


def test_nothing_here_is_copied(data_folder):
    clip = next((data_folder / "clips" / "train").iterdir())
    with nearby.local(str(clip)) as path:
        assert path == str(clip)
    assert decode.probe(clip) == sources.VideoRef(str(clip), None).resolved()
