"""The features of the support matrix: their tests, and the compiled steps that have them."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Feature:
    """The tests of a feature, and the compiled steps that have it.

    Attributes:
      tests: patterns, each a module or module:prefix of a test name.
      is_in: whether the step of a row of the pods' store has the feature; None if no step shows it.
    """

    tests: tuple[str, ...]
    is_in: Callable[[dict], bool] | None = None


def _changes(*keys: str) -> Callable[[dict], bool]:
    return lambda row: any(change.startswith(keys) for change in row["asked"]["changes"])


def _of_stage(name: str) -> Callable[[dict], bool]:
    return lambda row: row["stage"] == name


FEATURES: dict[str, Feature] = {
    "spread over devices of one process = one device": Feature(
        ("test_parallel:test_sharded",), lambda row: row["devices"] > 1
    ),
    "tensor parallelism": Feature(
        ("test_parallel:test_sharded*tensor", "test_parallel:test_heads"),
        lambda row: row["mesh"]["tensor"] > 1,
    ),
    "context parallelism": Feature(
        ("test_parallel:test_sharded*context", "test_context"),
        lambda row: row["mesh"]["context"] > 1,
    ),
    "micro-batches": Feature(
        ("test_parallel:test_micro", "test_reduction"), lambda row: row["accumulation"] > 1
    ),
    "remat by name": Feature(
        ("test_parallel:test_remat",),
        # Other programs have no backward pass, or no modelled time.
        lambda row: row["remat"] != "none" and row["stage"] != "convert" and row["flops"],
    ),
    "host offload": Feature(
        ("test_parallel:test_remat", "test_parallel:test_offload"),
        lambda row: row["remat"] == "offload",
    ),
    "vision tower over all devices": Feature(
        ("test_parallel:test_vision_tower", "test_parallel:test_patches"),
        lambda row: row["devices"] > 1 and "vision_attention" in row["program"]["kernels"],
    ),
    "several hosts: calling each other, by threads": Feature(
        tuple(
            f"test_hosts:test_{name}"
            for name in (
                *("all", "arrived", "failed_barrier", "barrier_with", "process_gets"),
                *("strangers", "inconsistent", "single", "messages"),
            )
        )
    ),
    "several hosts, by real processes": Feature(
        (
            "test_hosts:test_process_that_misses",
            "test_hosts:test_several",
            "multi_process.test_other_hosts",
        )
    ),
    "several hosts that draw answers, by real processes": Feature(("multi_process.test_rolls",)),
    "several slices: where the mesh lays devices": Feature(
        ("test_parallel:test_only_replica",), lambda row: row["mesh"]["replica"] > 1
    ),
    "resume and kills, bit for bit": Feature(("test_resume", "test_kill_train")),
    "SIGTERM": Feature(("test_preemption",)),
    "checkpoints on another mesh, damaged ones": Feature(
        ("test_checkpoint", "test_damaged_checkpoints", "test_fingerprint")
    ),
    "bad gradients, loss spikes, hangs": Feature(("test_bad_steps", "test_watchdog")),
    "LoRA": Feature(("test_lora",), _changes("optim.lora_")),
    "parts that train, rates, EMA, drop path": Feature(
        ("test_parameter_groups",),
        _changes(*(f"optim.{key}" for key in ("train", "freeze", "rates", "ema", "drop_path"))),
    ),
    "packing = alone, prefill = decode": Feature(("test_model",)),
    "gspo": Feature(("test_gspo",), _of_stage("gspo")),
    "on-policy distillation": Feature(("test_distillation",), _of_stage("opd")),
    "conversion to latent attention": Feature(
        ("test_conversion", "test_convert", "test_exact_latent", "test_sequential"),
        _of_stage("convert"),
    ),
    "Hugging Face in and out": Feature(("test_hf_*", "test_import_export")),
    "the recipe, tiny": Feature(("test_recipe",)),
    "the agent": Feature(("test_agent", "test_agent_traces")),
}
