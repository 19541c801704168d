"""`ivx compile`: the work of a step, and the estimate from the compiler's output."""

import dataclasses
import json

import jax
import pytest

from ivx import from_config
from ivx.aot import child, chips, estimate, program
from ivx.aot.options import CompileOptions
from ivx.commands import experiments
from ivx.models import flop_counts, spec
from ivx.models.definition import ModelDefinition
from tests.command import ivx, refused
from tests.conftest import ROOT
from tests.test_aot import libtpu


@pytest.mark.parametrize("attention", ["m2la", "gqa"])
def test_layers_do_two_flops_per_weight_and_token(attention):
    shape = spec.base_8b(attention)
    parts = flop_counts.forward(shape, tokens=1, pairs=0, patches=4, slice_patches=0)
    kernels = {"visual": 0, "language_model": 0, "lm_head": 0}
    params = ModelDefinition(shape).abstract_params
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [entry.key for entry in path]
        if names[-1] == "kernel":
            kernels[names[0]] += leaf.size * (4 if _is_per_patch(names) else 1)
    words = ("attention projections", "keys and values from latents", "feed-forward")
    assert sum(parts[part] for part in words) == 2 * kernels["language_model"]
    assert parts["head"] == 2 * kernels["lm_head"]
    assert parts["vision tower"] + parts["mergers"] == 2 * kernels["visual"]


def _is_per_patch(names: list[str]) -> bool:
    """Whether a layer runs on patches, four of which make a token."""
    return names[0] == "visual" and "merger" not in " ".join(names)


def test_attention_flops_cover_scores_and_weighted_values():
    parts = flop_counts.forward(spec.base_8b(), tokens=0, pairs=1, patches=0, slice_patches=0)
    assert parts["attention"] == 36 * 32 * 2 * (256 + 128)


KERNELS = {"dense_attention": 8, "dense_attention_backward": 4}
V5P = chips.CHIPS["v5p"]


def test_estimate_lies_between_hidden_and_exposed_exchange():
    exchange = program.Collective("all-gather", "fsdp", 1, 200e9)
    found = program.Program((exchange,), KERNELS, int(1.75e9), 0)
    load = estimate.Load({"attention": 3.0 * 459e12, "vision attention": 0.0})
    time = estimate.estimate(found, V5P, 4, load, pace=0.5)
    assert time.cycles == pytest.approx(1.0, rel=1e-3)
    assert time.exchange == {"fsdp": pytest.approx(1.0)}
    # Two forward passes, and a backward pass of 8/3; four chips, at half the pace of the schedules:
    # 12,892 cycles and 172 for a check forward, and 17,096 for 8 products backward.
    forward = 2048 * 1024 * 384 / ((12_892 + 172) * 4 * 128**2)
    back = 1024 * 1024 * 1024 / (17_096 * 4 * 128**2)
    assert (round(forward, 3), round(back, 3)) == (0.941, 0.958)
    assert time.kernels == pytest.approx((2 / forward + 8 / 3 / back) / 4 / 0.5)
    assert time.hidden == pytest.approx(time.cycles + time.kernels)
    assert time.exposed == pytest.approx(time.hidden + 1)
    assert time.utilisation(2.0) == pytest.approx(3 / 4 / 2)


def test_kernels_without_backward_pass_do_useful_flops():
    load = estimate.Load({"attention": 10.0, "vision attention": 0.0}, "grouped")
    assert estimate.kernel_work({"dense_attention": 36}, load) == [
        estimate.KernelWork("dense_attention", "grouped", 10.0)
    ]


def test_backward_kernel_in_parts_does_same_flops():
    kernels = {"dense_attention": 8, "dense_attention_backward": 4 * 8}
    parts = {"attention": 3.0, "vision attention": 0.0}
    found = estimate.kernel_work(kernels, estimate.Load(parts, backward_calls=4))
    assert [work.flops for work in found] == [1.0, pytest.approx(8 / 3)]
    # 65,536 tokens, keys of width 256; with context 8 a device has an eighth of the tokens.
    config, options = a_config(), CompileOptions(1.0, 0.9, 784, "32b")
    assert from_config.step_load.load(config, options)["backward_calls"] == 4
    config.mesh.context = 8
    assert from_config.step_load.load(config, options)["backward_calls"] == 1


def test_teacher_runs_attention_forward_once():
    """4 of 8 calls are the teacher's, which has grouped heads and larger layers."""
    parts = {"attention": 3.0, "teacher's attention": 50.0, "vision attention": 0.0}
    load = estimate.Load(parts, "latent", {"attention": 4, "vision attention": 4})
    work = [dataclasses.astuple(kernel) for kernel in estimate.kernel_work(KERNELS, load)]
    assert work == [
        ("dense_attention", "grouped", 50.0),
        ("dense_attention", "latent", 1.0),
        ("dense_attention_backward", "latent", pytest.approx(8 / 3)),
    ]


def test_load_separates_teacher_from_student():
    options = CompileOptions(timeout=1.0, pace=0.9, slice_patches=784, teacher="32b")
    config = a_config("opd")
    config.optim.accumulation = 2
    found = from_config.step_load.load(config, options)
    assert found["heads"] == "latent"
    assert found["taught"] == {"attention": 2 * 64, "vision attention": 2 * 27}
    # Per pair: three passes over 36 layers of 32 heads at width 3 for the student, one over 64
    # layers of 64 heads at width 2 for the teacher.
    flops = found["flops"]
    ratio = (3 * 36 * 32 * 3) / (64 * 64 * 2)
    assert flops["attention"] / flops["teacher's attention"] == pytest.approx(ratio)
    found = from_config.step_load.load(a_config("convert"), options)
    assert (found["heads"], found["taught"]) == ("grouped", {}) and "head" not in found["flops"]


def test_paces_match_stored_schedules():
    rows = json.loads((ROOT / "benchmarks" / "results" / "kernels_tpu.json").read_text())
    read = {(row["case"], row["chip"]): row for row in rows}
    for heads, of_chips in estimate.CYCLES.items():
        for chip, cycles in of_chips.items():
            cases = [
                read[f"dense_attention-bf16-{heads}-{way}-8192", chip]
                for way in ("forward", "backward")
            ]
            assert cycles == tuple(case["cycles"] for case in cases)
            # The backward kernel recomputes nothing extra; forward includes a check.
            name, share = chips.CHIPS[chip], estimate.kernel_share
            back = share(name, "dense_attention_backward", heads, pace=1.0)
            assert back == pytest.approx(cases[1]["useful"])
            forward = share(name, "dense_attention", heads, pace=1.0)
            assert 0.9 * cases[0]["useful"] < forward < cases[0]["useful"]
    for chip, (forward, back) in estimate.VISION_CYCLES.items():
        fwd, grad = (read[f"vision_attention-{way}-bf16-1764x144", chip] for way in ("fwd", "grad"))
        assert (forward, forward + back) == (fwd["cycles"], grad["cycles"])
        assert share(chips.CHIPS[chip], "vision_attention", pace=1.0) == pytest.approx(
            fwd["useful"]
        )


def a_config(name: str = "cpt"):
    return experiments.load(ROOT / "experiments" / f"{name}.py", "8b")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "no --config was given"),
        (("--config=cpt:tiny",), "no --topology was given"),
        (("--config=cpt:tiny", "--topology=v6e:3x3"), "v6e:2x2 is the smallest"),
        (("--config=cpt:tiny", "--mesh=rows:2"), "expected axis:size"),
        (("kernels",), "ivx compile does not understand 'kernels'"),
    ],
)
def test_bad_input_is_rejected_in_one_sentence(arguments, sentence):
    assert sentence in refused(ivx("compile", *arguments))


@pytest.mark.parametrize("name", ["cpt", "rl_gspo", "opd", "convert"])
def test_program_of_stage_traces_with_its_arguments(name):
    """Every stage is traced on eight devices from shapes alone."""
    config = experiments.load(ROOT / "experiments" / f"{name}.py", "tiny")
    # The statistics pass sums over full packs, so it cannot use the context axis.
    context = 1 if name == "convert" else 2
    config.mesh.update(replica=1, fsdp=8 // context, context=context, cpu_devices=0)
    config.data.update(batch_packs=8, pack_tokens=128, pack_patches=96)
    found = from_config.programs.program(config, from_config.mesh.make(config), teacher="small")
    outputs = jax.tree.leaves(found.function.trace(*found.arguments).out_info)
    assert outputs and ("teacher" in found.held) == (name == "opd")
    assert ("optimizer" in found.held) == (name != "convert")


@pytest.mark.skipif(not libtpu(), reason="compiling for TPUs needs libtpu: make libtpu")
def test_tiny_step_compiles_for_four_chips():
    config = experiments.load(ROOT / "experiments" / "cpt.py", "tiny")
    config.mesh.update(replica=1, fsdp=2, tensor=2)
    config.data.update(batch_packs=4, pack_tokens=128, pack_patches=48)
    question = {"config": config.to_dict(), "topology": "v5e:2x2", "teacher": "small", "part": ""}
    question |= {"text": "", "lower_only": False}
    answer = child.ask("ivx.commands.compile.process", question, 900)
    assert not answer.refusal, answer.refusal
    found, held = answer.found, answer.found["bytes"]
    # Moments are sharded like parameters, and the arguments hold all of these arrays.
    assert held["optimizer"] == pytest.approx(2 * held["parameters"], rel=0.01)
    assert found["memory"]["arguments"] == pytest.approx(sum(held.values()), rel=0.25)
    assert {row["axes"] for row in found["program"]["collectives"]} & {"fsdp", "tensor"}
    # Another process lowers to the same digest; with `lower_only` it does not compile.
    question["lower_only"] = True
    again = child.ask("ivx.commands.compile.process", question, 900).found
    assert again["lowered"] == found["lowered"] and "memory" not in again
