"""The cost of loading: memory is bounded, and the demand of pods is computed correctly.

No test depends on measured times.
"""

import pytest

from benchmarks import clips, loading, packing, pod_demand, soak


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    clips.draw(path, seconds=8, width=320, height=192)
    return path


@pytest.fixture(scope="module")
def row(clip) -> dict:
    """Measurements of 24 loads by one worker process."""
    return loading._in_a_worker(loading.Job("cpt, sft_short", clip, 16, 24, proxy=False))


def test_worker_memory_does_not_grow_with_loads(row):
    """After the first few loads, not one more pack of 391 MiB is kept in memory."""
    peaks = row["peak_mib"]
    assert len(peaks) == 24
    assert peaks[-1] < peaks[5] + row["pack_mib"] / 8


def test_soak_loads_good_and_bad_samples_and_reports_memory(capsys):
    """A short soak; `python -m benchmarks loading --soak=10000` is the long one."""
    result = soak.run(120)
    assert result["packs"] == 30
    # So short a run may still be filling its buffers, so it need not be flat.
    assert result["ok"] == (soak.flat(result["worker_mib"]) and soak.flat(result["taker_mib"]))
    assert max(result["worker_mib"]) - min(result["worker_mib"]) < 150
    # A third of the clips is damaged, but damage between frames may go undetected.
    assert 120 / 6 < result["skipped"] <= 120 / 2
    assert min(result["worker_mib"]) > 50 and min(result["taker_mib"]) > 50
    assert "30 packs" in capsys.readouterr().out


def test_growing_memory_is_not_flat():
    """The first quarter is ignored, and so is memory that an allocator keeps."""
    assert soak.flat([100.0, 400.0, 410.0, 420.0])
    assert soak.flat([100.0, 400.0, 390.0, 380.0])
    assert not soak.flat([400.0, 420.0, 440.0, 460.0])


def test_proxy_gives_the_frames_and_size_of_the_original(clip, row):
    result = loading._in_a_worker(loading.Job("cpt, sft_short", clip, 16, 2, proxy=True))
    assert result["frames"] == row["frames"] == 16 and result["size"] == row["size"]


def test_pod_demand_scales_with_decoding_cost_and_chips(row):
    """Twice the CPU time per frame needs twice the cores and changes nothing else."""
    slower = row | {"cpu_ms_a_frame": 2 * row["cpu_ms_a_frame"]}
    usual, double = pod_demand.needs([row]), pod_demand.needs([slower])
    assert [need["pod"] for need in usual] == [pod.name for pod in pod_demand.PODS]
    for one, other in zip(usual, double, strict=True):
        assert other["cores_a_host"] == pytest.approx(2 * one["cores_a_host"])
        assert other["frames_a_second"] == one["frames_a_second"]
        setting = packing.SETTINGS[one["setting"]]
        patches = setting.batch * setting.shape.patches * 1536
        assert one["to_device_gb_a_second"] * one["step_seconds"] * 1e9 > patches
    small, large = usual
    ratio = (
        pod_demand.PODS[1].chips
        * pod_demand.PODS[1].peak
        / pod_demand.PODS[0].chips
        / pod_demand.PODS[0].peak
    )
    assert large["frames_a_second"] == pytest.approx(ratio * small["frames_a_second"])
    assert pod_demand.table(usual).count("\n") == 3
