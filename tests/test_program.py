"""Cycles, kernels and exchanges are read from the text of a compiled step."""

import pathlib

import ivx as ivx_package
from ivx.aot import frames, program

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


def test_instructions_in_loop_count_once_per_trip():
    found = program.read(HLO, AXES)
    assert found.cycles == 36 * 100 + 7
    assert found.kernels == {"attention_fwd": 36, "own": 1}
    assert found.unknown_loops == 1


def test_cycles_are_attributed_to_functions_of_ivx():
    """Cycles in flax count for the caller; XLA numbers the parent of a frame one too high."""
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


def test_kernel_metadata_does_not_end_computation():
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


def test_exchanges_have_axes_and_bytes_of_ring():
    found = {(one.kind, one.axes): one for one in program.read(HLO, AXES).collectives}
    assert {key: (one.times, one.bytes) for key, one in found.items()} == {
        # 3 of the 4 gathered parts come from other devices.
        ("all-gather", "tensor"): (36 + 3, 36 * 64 * 4 * 3 / 4 + 3 * 8 * 4 * 3 / 4),
        ("reduce-scatter", "fsdp"): (1, 4 * 128 * 2 * 2 / 2),
        ("all-reduce", "fsdp+tensor"): (1, 2 * 4000 * 7 / 8),
        ("collective-permute", "fsdp"): (1, 40),
    }
