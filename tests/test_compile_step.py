"""What `ivx compile` reads from a compiled step, and what it makes of it."""

import json
import pathlib

import jax
import pytest

import ivx as ivx_package
from ivx import build
from ivx.aot import child, chips, estimate, frames, program
from ivx.build import dataless
from ivx.commands import config_flag, too_large
from ivx.commands.compile import step
from ivx.errors import UserError
from ivx.models import spec, work
from ivx.models.definition import ModelDefinition
from tests.command import ivx, refused
from tests.conftest import ROOT
from tests.test_aot import libtpu

# 2 x 4 devices: device number = 4 * fsdp + tensor.
AXES = {"replica": 1, "fsdp": 2, "tensor": 4, "context": 1}
HLO = """
%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}
%wrapped (p: bf16[8,128]) -> bf16[4,128] {
  ROOT %rs = bf16[4,128]{1,0:T(8,128)(2,1)} reduce-scatter(%p), replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%sum
}
%body (t: (s32[], f32[16])) -> (s32[], f32[16]) {
  %ag = (f32[16]{0}, f32[64]{0}) all-gather-start(%x), replica_groups=[2,4]<=[8], dimensions={0}
  %done = f32[64]{0} all-gather-done(%ag)
  %f = f32[64]{0} fusion(%done), calls=%fused, backend_config={"estimated_cycles":"100"}
  %k = f32[64]{0} custom-call(%f), custom_call_target="tpu_custom_call", metadata={op_name="jit(step)/while/body/attention_fwd/pallas_call"}
}
%condition (t: (s32[], f32[16])) -> pred[] {
  %n = s32[]{:T(128)} constant(36)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}
%endless (t: (s32[], f32[16])) -> pred[] {
  ROOT %found = pred[] compare(%a, %b), direction=LT
}
%few (t: (s32[], f32[16])) -> (s32[], f32[16]) {
  %part = f32[8]{0} all-gather(%x), replica_groups=mesh['a'=2,'b'=2,'c'=2] {'b','c'}, dimensions={0}
}
ENTRY %main (p: f32[16]) -> f32[16] {
  %loop = (s32[], f32[16]) while(%t), condition=%condition, body=%body
  %open = (s32[], f32[16]) while(%t), condition=%endless, body=%sum
  %short = (s32[], f32[16]) while(%t), condition=%endless, body=%few, backend_config={"known_trip_count":{"n":"3"}}
  %own = f32[16]{0} custom-call(%g), custom_call_target="tpu_custom_call", metadata={op_name="online-softmax"}
  %start = ((bf16[8,128]), bf16[4,128]) async-start(%p), calls=%wrapped
  %all = f32[1000]{0} all-reduce(%g), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%sum
  %move = f32[10]{0} collective-permute(%g), source_target_pairs={{0,4},{4,0},{1,5}}
  %none = f32[16]{0} fusion(%g), calls=%fused, backend_config={"estimated_cycles":"9223372036854775807"}
  ROOT %last = f32[16]{0} fusion(%g), calls=%fused, backend_config={"estimated_cycles":"7"}
}
"""  # noqa: E501


def test_what_stands_in_a_loop_counts_as_often_as_it_turns():
    found = program.read(HLO, AXES)
    assert found.cycles == 36 * 100 + 7
    assert found.kernels == {"attention_fwd": 36, "own": 1}
    assert found.unknown_loops == 1


def test_cycles_are_put_down_to_the_function_of_ours_that_spent_them():
    """What flax did counts for its caller; the parent of a frame is numbered one too high."""
    ours = pathlib.Path(ivx_package.__file__).parent
    text = f"""HloModule jit_step

FileNames
1 "{ours}/training/state.py"
2 "/venv/ivx/site-packages/flax/nnx/linear.py"
3 "{ours}/models/decoder.py"

FunctionNames
1 "make_step.<locals>.step"
2 "Linear.__call__"
3 "FeedForward.__call__"

FileLocations
1 {{file_name_id=1 function_name_id=1 line=9 end_line=9 column=1 end_column=2}}
2 {{file_name_id=3 function_name_id=3 line=9 end_line=9 column=1 end_column=2}}
3 {{file_name_id=2 function_name_id=2 line=9 end_line=9 column=1 end_column=2}}

StackFrames
1 {{file_location_id=1 parent_frame_id=1}}
2 {{file_location_id=2 parent_frame_id=2}}
3 {{file_location_id=3 parent_frame_id=3}}

ENTRY %main (p: f32[16]) -> f32[16] {{
  %a = f32[16] fusion(%p), metadata={{op_name="jit(step)/jvp()/dot" stack_frame_id=3}}, backend_config={{"estimated_cycles":"5"}}
  %b = f32[16] fusion(%p), metadata={{op_name="jit(step)/transpose(jvp())/dot" stack_frame_id=3}}, backend_config={{"estimated_cycles":"7"}}
  %c = f32[16] fusion(%p), metadata={{op_name="jit(step)/transpose(jvp())/checkpoint/rematted_computation/dot" stack_frame_id=2}}, backend_config={{"estimated_cycles":"1"}}
  %d = f32[16] fusion(%p), metadata={{op_name="jit(step)/add" stack_frame_id=1}}, backend_config={{"estimated_cycles":"2"}}
  ROOT %e = f32[16] copy(%p), backend_config={{"estimated_cycles":"3"}}
}}
"""  # noqa: E501
    found = program.read(text, {"fsdp": 1})
    assert found.places == {
        "models/decoder.py FeedForward.__call__": {"forward": 5, "backward": 7, "again": 1},
        "training/state.py make_step.step": {"forward": 2},
        frames.NOWHERE: {"forward": 3},
    }
    assert found.cycles == 18


def test_what_a_kernel_carries_as_metadata_does_not_end_the_program():
    """Splash attention writes JSON of several lines into its call."""
    text = (
        "ENTRY %main (x: f32[8]) -> f32[8] {\n"
        '  %k.1 = f32[8] custom-call(%x), custom_call_target="tpu_custom_call", m={{\n'
        '"a": 1\n'
        '}}, metadata={op_name="jit(f)/k/pallas_call"}\n'
        '  ROOT %r = f32[8] fusion(%k.1), backend_config={"estimated_cycles":"7"}\n'
        "}\n"
    )
    found = program.read(text, {"one": 1})
    assert (found.cycles, found.kernels) == (7, {"k": 1})


def test_exchanges_have_the_axes_and_bytes_of_a_ring():
    found = {(one.kind, one.axes): one for one in program.read(HLO, AXES).collectives}
    assert {key: (one.times, one.bytes) for key, one in found.items()} == {
        # 3 of 4 parts of what is gathered come from others.
        ("all-gather", "tensor"): (36 + 3, 36 * 64 * 4 * 3 / 4 + 3 * 8 * 4 * 3 / 4),
        ("reduce-scatter", "fsdp"): (1, 4 * 128 * 2 * 2 / 2),
        ("all-reduce", "fsdp+tensor"): (1, 2 * 4000 * 7 / 8),
        ("collective-permute", "fsdp"): (1, 40),
    }


@pytest.mark.parametrize("attention", ["m2la", "gqa"])
def test_flops_of_layers_are_two_for_each_weight_and_token(attention):
    shape = spec.base_8b(attention)
    parts = work.forward(shape, tokens=1, pairs=0, patches=4, slice_patches=0)
    kernels = {"visual": 0, "language_model": 0, "lm_head": 0}
    params = ModelDefinition(shape).abstract_params
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [entry.key for entry in path]
        if names[-1] == "kernel":
            kernels[names[0]] += leaf.size * (4 if _a_patch(names) else 1)
    words = ("attention projections", "keys and values from latents", "feed-forward")
    assert sum(parts[part] for part in words) == 2 * kernels["language_model"]
    assert parts["head"] == 2 * kernels["lm_head"]
    assert parts["vision tower"] + parts["mergers"] == 2 * kernels["visual"]


def _a_patch(names: list[str]) -> bool:
    """Whether a layer sees patches, four of which make a token."""
    return names[0] == "visual" and "merger" not in " ".join(names)


def test_pairs_of_attention_are_products_of_queries_and_keys_and_of_weights_and_values():
    parts = work.forward(spec.base_8b(), tokens=0, pairs=1, patches=0, slice_patches=0)
    assert parts["attention"] == 36 * 32 * 2 * (256 + 128)


KERNELS = {"dense_attention": 8, "dense_attention_d_keys": 4, "dense_attention_d_queries": 4}
V5P = chips.CHIPS["v5p"]


def test_a_step_is_modelled_between_hidden_and_exposed_exchange():
    exchange = program.Collective("all-gather", "fsdp", 1, 200e9)
    found = program.Program((exchange,), KERNELS, int(1.75e9), 0)
    load = estimate.Load({"attention": 3.0 * 459e12, "vision attention": 0.0})
    time = estimate.estimate(found, V5P, 4, load, pace=0.5)
    assert time.cycles == pytest.approx(1.0, rel=1e-3)
    assert time.exchange == {"fsdp": pytest.approx(1.0)}
    # Two forward passes, gradients of keys of two of those, and of queries of 5/3; four chips, and
    # half of what schedules leave: 12,922 cycles and 172 of a check, and 24,302 for 11 products.
    forward = 2048 * 1024 * 384 / ((12_922 + 172) * 4 * 128**2)
    back = 1024 * 1024 * 1408 / (24_302 * 4 * 128**2)
    assert (round(forward, 3), round(back, 3)) == (0.938, 0.927)
    assert time.kernels == pytest.approx((2 / forward + (2 + 5 / 3) / back) / 4 / 0.5)
    assert time.hidden == pytest.approx(time.cycles + time.kernels)
    assert time.exposed == pytest.approx(time.hidden + 1)
    assert time.utilisation(2.0) == pytest.approx(3 / 4 / 2)


def test_without_a_backward_pass_kernels_do_what_is_useful():
    load = estimate.Load({"attention": 10.0, "vision attention": 0.0}, "grouped")
    assert estimate.kernel_work({"dense_attention": 36}, load) == [
        estimate.KernelWork("dense_attention", "grouped", 10.0)
    ]


def test_a_teacher_runs_its_own_attention_once():
    """Of 8 calls 4 are the teacher's, whose heads are grouped and whose layers are larger."""
    parts = {"attention": 3.0, "teacher's attention": 50.0, "vision attention": 0.0}
    load = estimate.Load(parts, "latent", {"attention": 4, "vision attention": 4})
    assert estimate.kernel_work(KERNELS, load) == [
        estimate.KernelWork("dense_attention", "grouped", 50.0),
        estimate.KernelWork("dense_attention", "latent", 1.0),
        estimate.KernelWork("dense_attention_d_queries", "latent", pytest.approx(5 / 3)),
        estimate.KernelWork("dense_attention_d_keys", "latent", 2.0),
    ]


def test_what_is_asked_of_a_step_tells_the_teacher_apart():
    asking = step.Asking(timeout=1.0, pace=0.9, slice_patches=784, teacher="32b")
    config = a_config("opd")
    config.optim.accumulation = 2
    found = step.load(config, asking)
    assert found["heads"] == "latent"
    assert found["taught"] == {"attention": 2 * 64, "vision attention": 2 * 27}
    # A pair costs the student 3 of 32 heads in 36 layers, three times over; the teacher 2 of 64.
    flops = found["flops"]
    ratio = (3 * 36 * 32 * 3) / (64 * 64 * 2)
    assert flops["attention"] / flops["teacher's attention"] == pytest.approx(ratio)
    found = step.load(a_config("convert"), asking)
    assert (found["heads"], found["taught"]) == ("grouped", {}) and "head" not in found["flops"]


def test_paces_are_those_of_schedules_that_were_read():
    rows = json.loads((ROOT / "docs" / "results" / "kernels_tpu.json").read_text())
    read = {(row["case"], row["chip"]): row for row in rows}
    for heads, of_chips in estimate.CYCLES.items():
        for chip, cycles in of_chips.items():
            cases = [
                read[f"dense_attention-bf16-{heads}-{way}-8192", chip]
                for way in ("forward", "backward")
            ]
            assert cycles == tuple(case["cycles"] for case in cases)
            # Backward, 5 products of 7 are useful; forward, a check is counted besides.
            widths = estimate.WIDTHS[heads]
            useful = (3 * widths[0] + 2 * widths[1]) / (4 * widths[0] + 3 * widths[1])
            name, share = chips.CHIPS[chip], estimate.kernel_share
            back = share(name, "dense_attention_d_keys", heads, pace=1.0)
            assert back * useful == pytest.approx(cases[1]["useful"])
            forward = share(name, "dense_attention", heads, pace=1.0)
            assert 0.9 * cases[0]["useful"] < forward < cases[0]["useful"]
    for chip, (forward, back) in estimate.VISION_CYCLES.items():
        fwd, grad = (read[f"vision_attention-{way}-bf16-1764x144", chip] for way in ("fwd", "grad"))
        assert (forward, forward + back) == (fwd["cycles"], grad["cycles"])
        assert share(chips.CHIPS[chip], "vision_attention", pace=1.0) == pytest.approx(
            fwd["useful"]
        )


SAID = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 40G of 31.25G hbm.
  Largest program allocations in hbm:
  1. Size: 8.00G
     Operator: op_name="jit(step)/jvp(while)/dot_general"
     Shape: bf16[8,65536,8192]{2,1,0:T(8,128)}
     Unpadded size: 8.00G
     ==========================
  2. Size: 8.00G
     Operator: op_name="jit(step)/jvp(while)/dot_general"
     Shape: bf16[8,65536,8192]{2,1,0:T(8,128)}
     ==========================
"""


def a_config(name: str = "cpt"):
    return config_flag.load(ROOT / "experiments" / f"{name}.py", "8b")


def test_what_does_not_fit_is_named_with_what_would_help():
    found = too_large.largest(SAID)
    assert found == ["8.00G bf16[8,65536,8192] of jit(step)/jvp(while)/dot_general, 2 times"]
    found = too_large.knobs(a_config(), {"replica": 1, "fsdp": 64, "tensor": 1, "context": 1})
    assert [one.split(" =")[0] for one in found[:4]] == [
        "optim.accumulation",
        "model.remat",
        "model.remat",
        "model.remat",
    ]


@pytest.mark.parametrize(
    ("mesh", "changes", "found"),
    [
        # 21 packs a device have no half.
        ({"fsdp": 6}, {"batch_packs": 126}, "optim.accumulation = 3: 1/3 of the activations"),
        (
            {"fsdp": 9, "context": 2},
            {"batch_packs": 9, "pack_tokens": 12 * 1024},
            "mesh.fsdp = 3, mesh.context = 6 and optim.accumulation = 3: 1/3 of",
        ),
        ({"fsdp": 128}, {}, "mesh.fsdp = 64, mesh.context = 2 and optim.accumulation = 2: half"),
        # Three do not divide 65,536 tokens, nor 32 heads.
        ({"fsdp": 3}, {"batch_packs": 3}, "model.remat = latent"),
    ],
)
def test_what_would_help_divides_evenly(mesh, changes, found):
    config = a_config()
    config.optim.accumulation = 1
    config.data.update(changes)
    knobs = too_large.knobs(config, mesh)
    assert knobs[0].startswith(found)
    assert any("mesh.tensor" in one for one in knobs) == (mesh != {"fsdp": 3})


def test_heads_are_split_over_devices_that_split_packs():
    one = next(
        one for one in too_large.knobs(a_config(), {"fsdp": 8, "context": 4}) if "tensor" in one
    )
    assert one.startswith("mesh.tensor = 2, mesh.context = 2: half the weights")


def test_statistics_have_packs_alone_to_make_smaller():
    config = a_config("convert")
    assert [one.split(":")[0] for one in too_large.knobs(config, {"fsdp": 4})] == [
        "data.batch_packs = 4",
        "a larger slice, or a chip with more memory",
    ]


def test_a_pod_says_so_too():
    raised = r"the largest buffers: 8\.00G .* the cheapest first: optim"
    with pytest.raises(UserError, match=raised), too_large.told(a_config(), {"fsdp": 64}):
        raise jax.errors.JaxRuntimeError(SAID)


def test_memory_that_runs_out_while_running_is_told_too():
    """By the allocator of this machine, which has no petabyte."""
    raised = pytest.raises(UserError, match="none that the compiler names")
    with raised, too_large.told(a_config(), {"fsdp": 64}):
        jax.block_until_ready(jax.numpy.zeros(2**50, "uint8"))


@pytest.mark.parametrize(
    "other",
    [
        RuntimeError("something else"),
        # Of a bucket, of the coordination service, and of a core's own memory.
        ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes of quota"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Received message larger than max"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem"),
    ],
)
def test_what_is_not_of_a_devices_memory_passes(other):
    with pytest.raises(type(other)) as found, too_large.told(a_config(), {"fsdp": 64}):
        raise other
    assert found.value is other


@pytest.mark.parametrize(
    "said",
    [
        "Error loading program 'jit_step': Attempting to reserve 6.48G at the bottom of memory."
        " That was not possible. There are 6.78G free, 0B reserved, and 3.33G reservable.",
        "Error allocating device buffer: Attempting to allocate 2.00G. That was not possible.",
        "Out of memory while trying to allocate 7406166528 bytes.",
        "Failed to allocate request for 32.00MiB (33554432B) on device ordinal 0",
    ],
)
def test_allocators_say_it_in_their_ways(said):
    assert too_large.is_of_memory(f"RESOURCE_EXHAUSTED: {said}")
    assert not too_large.is_of_memory(said)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "no --config was given"),
        (("--config=experiments/cpt.py:tiny",), "no --topology was given"),
        (("--config=experiments/cpt.py:tiny", "--topology=v6e:3x3"), "v6e:2x2 is the smallest"),
        (("--config=experiments/cpt.py:tiny", "--mesh=rows:2"), "expected axis:size"),
        (("kernels",), "knows step, kernel, pods, support, not 'kernels'"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence):
    assert sentence in refused(ivx("compile", *arguments))


@pytest.mark.parametrize("name", ["cpt", "rl_gspo", "opd", "convert"])
def test_the_program_of_a_stage_takes_what_it_is_said_to_take(name):
    """Of every stage, on eight devices: traced with shapes alone."""
    config = config_flag.load(ROOT / "experiments" / f"{name}.py", "tiny")
    # Sums over all tokens of a pack are not made of packs that are cut.
    cut = 1 if name == "convert" else 2
    config.mesh.update(replica=1, fsdp=8 // cut, context=cut, cpu_devices=0)
    config.data.update(batch_packs=8, pack_tokens=128, pack_patches=96)
    found = dataless.program(config, build.mesh(config), teacher="small")
    outputs = jax.tree.leaves(found.function.trace(*found.arguments).out_info)
    assert outputs and ("teacher" in found.held) == (name == "opd")
    assert ("optimizer" in found.held) == (name != "convert")


@pytest.mark.skipif(not libtpu(), reason="compiling for TPUs needs libtpu: make libtpu")
def test_a_tiny_step_compiles_for_four_chips():
    config = config_flag.load(ROOT / "experiments" / "cpt.py", "tiny")
    config.mesh.update(replica=1, fsdp=2, tensor=2)
    config.data.update(batch_packs=4, pack_tokens=128, pack_patches=48)
    asked = {"config": config.to_dict(), "topology": "v5e:2x2", "text": "", "teacher": "small"}
    answer = child.ask("ivx.commands.compile.step_child", asked, 900)
    assert not answer.refusal, answer.refusal
    found, held = answer.found, answer.found["bytes"]
    # Moments lie like parameters, and all of it is what the program takes in.
    assert held["optimizer"] == pytest.approx(2 * held["parameters"], rel=0.01)
    assert found["memory"]["arguments"] == pytest.approx(sum(held.values()), rel=0.25)
    assert {one["axes"] for one in found["program"]["collectives"]} & {"fsdp", "tensor"}
