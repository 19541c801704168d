"""Memory of host and devices, the forecast of what a command needs, and its refusal."""

import dataclasses
import pathlib

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import convert as convert_experiment
from experiments import sft_short
from ivx import bundled, from_config
from ivx import config as configs
from ivx.commands import import_hf, memory_check, train
from ivx.errors import UserError
from ivx.from_config import memory_forecast
from ivx.from_config.memory_forecast import Forecast
from ivx.models.definition import ModelDefinition
from ivx.parallel import available_memory, machine_check
from ivx.parallel.available_memory import Memory

GIB = 2**30


def machine(
    root: pathlib.Path, total: float, available: float, group: str = "", **files: str
) -> pathlib.Path:
    """A tree of /proc and /sys; `files` are those of control groups, __ stands for /."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(
        f"MemTotal: {int(total * 2**20)} kB\nMemFree: 1 kB\nMemAvailable:"
        f" {int(available * 2**20)} kB\nHugePages_Total: 0\n"
    )
    if group:
        (root / "proc/self/cgroup").write_text(group)
    for path, text in files.items():
        file = root / "sys/fs/cgroup" / path.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def in_gib(memory: Memory) -> tuple[float, float, bool]:
    return memory.total / GIB, memory.available / GIB, memory.limited


def test_host_without_control_group_has_what_linux_calls_available(tmp_path):
    assert in_gib(available_memory.of_host(machine(tmp_path, 24, 20))) == (24, 20, False)


def test_host_that_reports_nothing_is_unknown(tmp_path):
    assert available_memory.of_host(tmp_path) is None


@pytest.mark.parametrize("path", ["", "job__inner__"])
def test_limit_of_a_group_counts_less_its_use_without_cache(tmp_path, path):
    """Version 2; inside a container the group is the root, whatever its path outside."""
    root = machine(
        tmp_path,
        24,
        20,
        "0::/job/inner\n",
        **{
            f"{path}memory.max": f"{8 * GIB}\n",
            f"{path}memory.current": f"{5 * GIB}\n",
            f"{path}memory.stat": f"anon 7\ninactive_file {2 * GIB}\n",
        },
    )
    assert in_gib(available_memory.of_host(root)) == (8, 5, True)


def test_tightest_of_nested_groups_counts(tmp_path):
    files = {}
    for folder, limit, usage in (("job__", 4, 3), ("job__inner__", "max", 1)):
        files[f"{folder}memory.max"] = str(limit if limit == "max" else limit * GIB)
        files[f"{folder}memory.current"] = str(usage * GIB)
    root = machine(tmp_path, 24, 20, "0::/job/inner\n", **files)
    assert in_gib(available_memory.of_host(root)) == (4, 1, True)


def test_version_1_group_counts_and_its_endless_limit_does_not(tmp_path):
    files = {
        "memory__memory.limit_in_bytes": str(2**63 - 4096),
        "memory__memory.usage_in_bytes": str(GIB),
        "memory__pod__memory.limit_in_bytes": str(6 * GIB),
        "memory__pod__memory.usage_in_bytes": str(4 * GIB),
        "memory__pod__memory.stat": f"cache 1\ntotal_inactive_file {GIB}\n",
    }
    group = "9:cpu,cpuacct:/\n4:memory:/pod\n0::/\n"
    assert in_gib(available_memory.of_host(machine(tmp_path, 24, 20, group, **files))) == (
        6,
        3,
        True,
    )


def test_full_host_counts_before_a_wide_group(tmp_path):
    files = {"memory.max": str(16 * GIB), "memory.current": str(GIB)}
    found = available_memory.of_host(machine(tmp_path, 24, 2, "0::/\n", **files))
    assert in_gib(found) == (16, 2, False)


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=20))
def test_any_text_in_these_files_is_survived(tmp_path_factory, group, stat, limit):
    root = machine(tmp_path_factory.mktemp("m"), 24, 20, "0::/\n")
    for path, text in (
        ("proc/self/cgroup", f"0::/{group}\n{group}\n"),
        ("sys/fs/cgroup/memory.max", limit),
        ("sys/fs/cgroup/memory.current", "5"),
        ("sys/fs/cgroup/memory.stat", stat),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8", errors="replace")
    assert available_memory.of_host(root).available >= 0


def test_doctor_names_the_memory_of_the_host(monkeypatch):
    monkeypatch.setattr(available_memory, "of_host", lambda: Memory(8 * GIB, 3 * GIB, True))
    check = machine_check._host_memory()
    assert check.found == "3.0 of 8.0 GiB of memory available, limited by its control group"


# --------------------------------------------------------------------------------- forecasts


def experiment(preset: str = "2b", **changes: object) -> configs.ml_collections.ConfigDict:
    """A training config of a large model on one device, with small packs."""
    config = configs.base("sft")
    config.model.update(preset=preset, attention="gqa", dtype="float32")
    config.data.update(pack_tokens=1024, pack_patches=4096, slice_block=256, batch_packs=8)
    for key, value in changes.items():
        section, name = key.split("__")
        config[section][name] = value
    return config


def forecast(config: configs.ml_collections.ConfigDict) -> dict[str, float]:
    """GiB by purpose on one device."""
    mesh = from_config.mesh.make(config, jax.devices()[:1])
    sizes = memory_forecast.training(config, mesh).host
    return {name: size / GIB for name, size in sizes.items()}


def test_full_training_holds_parameters_moments_and_gradients():
    sizes = forecast(experiment())
    assert sizes["parameters"] == pytest.approx(7.926, abs=1e-3)  # 2.13 G parameters of 4 bytes
    assert sizes["optimizer moments"] == pytest.approx(2 * sizes["parameters"])
    assert sizes["gradients and updates"] == pytest.approx(2 * sizes["parameters"])
    averaged = forecast(experiment(optim__ema=0.9))
    assert averaged["moving average"] == sizes["parameters"]
    accumulated = forecast(experiment(optim__accumulation=2))
    assert accumulated["gradients and updates"] == pytest.approx(3 * sizes["parameters"])


def test_only_what_trains_has_moments():
    merger = forecast(experiment(optim__trainable=("visual.merger.*",)))
    lora = forecast(experiment(optim__lora_rank=8))
    assert merger["optimizer moments"] < 0.3 and lora["optimizer moments"] < 0.3
    assert "kernels with LoRA, and their gradients" not in merger
    # Twice the kernels of 28 layers: 4 of attention, 3 of the feed-forward part.
    kernels = 28 * 2048 * (2 * 2048 + 2 * 1024 + 3 * 6144)
    expected = 2 * 4 * kernels / GIB
    assert lora["kernels with LoRA, and their gradients"] == pytest.approx(expected)


def test_replicas_on_a_cpu_hold_copies_and_shards_do_not():
    whole = sum(forecast(experiment()).values())
    for axis, factor in (("replica", 4), ("fsdp", 1)):
        sizes = {name: 1 for name in ("replica", "fsdp", "tensor", "context")} | {axis: 4}
        config = experiment()
        config.mesh.update(sizes)
        mesh = from_config.mesh.make(config, jax.devices()[:4])
        state = memory_forecast.training(config, mesh).host["parameters"] / GIB
        assert state == pytest.approx(factor * 7.926, rel=0.01)
    assert whole > 7.926


def test_forecasts_of_tiny_models_are_small():
    """No false alarm: each preset for two cores is far below a gigabyte."""
    for config in (sft_short.get_config("tiny"), sft_short.get_config("scratch")):
        config.run.start = ""
        assert sum(forecast(config).values()) < 0.5
    definition = from_config.model.definition(sft_short.get_config("tiny"))
    assert sum(memory_forecast.reading(definition).host.values()) < 0.1 * GIB


def test_conversion_of_8b_needs_more_than_its_source(monkeypatch):
    config = convert_experiment.get_config("8b")
    config.data.update(pack_tokens=8192, pack_patches=32768)
    grouped = config.copy_and_resolve_references()
    grouped.model.attention = "gqa"
    definition = from_config.model.definition(grouped)
    base = from_config.stored_model.StoredModel(pathlib.Path("missing"), grouped, definition)
    config.stage.match = False
    mesh = from_config.mesh.make(config)
    need = sum(memory_forecast.conversion(config, base, mesh).host.values()) / 1e9
    assert 46 < need < 120


def test_devices_hold_shards_and_the_host_holds_batches(monkeypatch):
    """On an accelerator, activations are left to its compiler."""
    monkeypatch.setattr(memory_forecast, "_on_cpu", lambda: False)
    config = experiment()
    mesh = from_config.mesh.make(config)
    found = memory_forecast.training(config, mesh)
    assert found.device["parameters"] == pytest.approx(7.926 * GIB / 8, rel=0.01)
    assert "activations" not in found.device and list(found.host) == ["batches"]


def test_export_in_bfloat16_holds_half_of_float32():
    definition = ModelDefinition(from_config.model.spec_of(experiment()))
    wide, narrow = (
        memory_forecast.reading(definition, dtype).host["parameters"]
        for dtype in ("float32", "bfloat16")
    )
    assert narrow == pytest.approx(wide / 2, rel=0.01)


# --------------------------------------------------------------------------------- refusal


def with_memory(monkeypatch, host: Memory | None, device: Memory | None = None) -> None:
    monkeypatch.setattr(available_memory, "of_host", lambda: host)
    monkeypatch.setattr(available_memory, "of_device", lambda: device)


NEED = Forecast({"parameters": 8 * GIB, "reading": 3 * GIB, "batches": 0.1 * GIB}, {})


def test_forecast_that_fits_is_one_line(monkeypatch, capsys):
    with_memory(monkeypatch, Memory(24 * GIB, 22 * GIB))
    memory_check.check(NEED, False)
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("needs about 11.1 GiB of memory on this host, of 22.0 GiB available")


def test_forecast_that_does_not_fit_is_refused_with_knobs(monkeypatch, capsys):
    with_memory(monkeypatch, Memory(12 * GIB, 10 * GIB, limited=True))
    with pytest.raises(UserError) as refused:
        memory_check.check(NEED, False, lambda sizes: ["optim.lora_rank = 16"])
    assert str(refused.value) == (
        "this needs about 11.1 GiB of memory on this host (parameters 8.0, reading 3.0), but 10.0"
        " of 12.0 GiB are available in its control group; what helps, the cheapest first:"
        " optim.lora_rank = 16; more memory, or --ignore_memory_forecast to start all the same"
    )
    memory_check.check(NEED, True)
    assert "because of --ignore_memory_forecast" in capsys.readouterr().err


def test_full_device_is_refused(monkeypatch):
    with_memory(monkeypatch, Memory(24 * GIB, 22 * GIB), Memory(16 * GIB, 10 * GIB))
    need = dataclasses.replace(NEED, device={"parameters": 14 * GIB})
    with pytest.raises(UserError, match=r"14\.0 GiB of memory on each device"):
        memory_check.check(need, False)


@pytest.mark.parametrize("host", [None, Memory(2 * GIB, GIB)])
def test_small_forecast_and_unknown_memory_are_silent(monkeypatch, capsys, host):
    with_memory(monkeypatch, host)
    memory_check.check(Forecast({"parameters": 0.01 * GIB}, {}), False)
    memory_check.check(NEED if host is None else Forecast({}, {}), False)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, ["optim.lora_rank", "optim.trainable"]),
        ({"data__pack_tokens": 8192}, ["optim.lora_rank", "optim.trainable"]),
        (
            {"data__pack_tokens": 8192, "optim__lora_rank": 8},
            ["optim.accumulation", "data.pack_tokens"],
        ),
        ({"optim__trainable": ("visual.merger.*",), "optim__ema": 0.9}, ["optim.ema"]),
    ],
)
def test_knobs_are_of_what_takes_the_memory(changes, expected):
    config = experiment(**changes)
    config.mesh.fsdp = 1
    mesh = from_config.mesh.make(config, jax.devices()[:1])
    sizes = memory_forecast.training(config, mesh).host
    knobs = memory_check.training_knobs(config, mesh.shape, sizes)
    found = [knob.split(" = ")[0] for knob in knobs]
    assert [key for key in found if key in expected] == expected, knobs
    assert set(found) <= set(configs.keys(config)), knobs
    for knob in knobs:
        assert ": " in knob


def test_command_is_refused_before_anything_is_read(monkeypatch, tmp_path):
    """The mixture does not even exist; the workdir is not created."""
    with_memory(monkeypatch, Memory(24 * GIB, GIB // 64))
    config = sft_short.get_config("scratch")
    config.mesh.cpu_devices = 0
    config.mesh.update(replica=1, fsdp=4)
    config.mesh.context = 2
    config.data.mixture = str(tmp_path / "missing.json")
    with pytest.raises(UserError, match="this needs about"):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"missing\.json"):
        train.train(config, tmp_path / "run", ignore_memory_forecast=True)
    folder = bundled.find("tiny-base")
    with pytest.raises(UserError, match="this needs about"):
        import_hf.import_model(folder, tmp_path / "imported")
    assert not (tmp_path / "imported").exists()
