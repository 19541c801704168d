"""What loading costs: it is bounded in memory, and the arithmetic of pods adds up.

No test asks how long anything took.
"""

import pytest

from ivx.commands.bench import clips, loading, packing, pods, soak


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    clips.draw(path, seconds=8, width=320, height=192)
    return path


@pytest.fixture(scope="module")
def row(clip) -> dict:
    """Of 24 loads by one worker process."""
    return loading._in_a_worker(loading.Job("cpt, sft_short", clip, 16, 24, proxy=False))


def test_memory_of_a_worker_does_not_grow_with_the_samples_it_loads(row):
    """A pack is 391 MiB; not one more of them is held after the first few loads."""
    peaks = row["peak_mib"]
    assert len(peaks) == 24
    assert peaks[-1] < peaks[5] + row["pack_mib"] / 8


def test_a_soak_loads_good_and_bad_samples_and_says_what_they_leave_behind(capsys):
    """A short one; `ivx bench loading --soak=10000` is the long one."""
    found = soak.run(120)
    assert found["packs"] == 30
    # So short a run may still fill its buffers: whether that is flat is for the long one to say.
    assert found["ok"] == (soak.flat(found["worker_mib"]) and soak.flat(found["taker_mib"]))
    assert max(found["worker_mib"]) - min(found["worker_mib"]) < 150
    # A third of what is drawn is damaged; noise between pictures may go unnoticed.
    assert 120 / 6 < found["skipped"] <= 120 / 2
    assert min(found["worker_mib"]) > 50 and min(found["taker_mib"]) > 50
    assert "30 packs" in capsys.readouterr().out


def test_memory_that_grows_is_not_flat():
    """What is loaded in the first quarter does not count, nor what an allocator keeps."""
    assert soak.flat([100.0, 400.0, 410.0, 420.0])
    assert soak.flat([100.0, 400.0, 390.0, 380.0])
    assert not soak.flat([400.0, 420.0, 440.0, 460.0])


def test_a_proxy_is_loaded_by_the_same_code(clip, row):
    found = loading._in_a_worker(loading.Job("cpt, sft_short", clip, 16, 2, proxy=True))
    assert found["frames"] == row["frames"] == 16 and found["size"] == row["size"]


def test_needs_scale_with_cost_and_with_chips(row):
    """Twice the CPU time a frame asks for twice the cores; the rest is the same."""
    slower = row | {"cpu_ms_a_frame": 2 * row["cpu_ms_a_frame"]}
    usual, double = pods.needs([row]), pods.needs([slower])
    assert [need["pod"] for need in usual] == [pod.name for pod in pods.PODS]
    for one, other in zip(usual, double, strict=True):
        assert other["cores_a_host"] == pytest.approx(2 * one["cores_a_host"])
        assert other["frames_a_second"] == one["frames_a_second"]
        setting = packing.SETTINGS[one["setting"]]
        patches = setting.batch * setting.shape.patches * 1536
        assert one["to_device_gb_a_second"] * one["step_seconds"] * 1e9 > patches
    small, large = usual
    ratio = pods.PODS[1].chips * pods.PODS[1].peak / pods.PODS[0].chips / pods.PODS[0].peak
    assert large["frames_a_second"] == pytest.approx(ratio * small["frames_a_second"])
    assert pods.table(usual).count("\n") == 3
