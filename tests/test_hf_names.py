"""The table of names is complete, matches the published checkpoints and has the right layouts."""

import collections

import einops
import jax
import numpy as np
import pytest

from data_pipelines.video import patches
from ivx.hf import names
from ivx.models import spec
from ivx.models.definition import ModelDefinition


def test_table_and_parameters_match_one_to_one(definition: ModelDefinition):
    leaves = {
        tuple(entry.key for entry in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(definition.abstract_params)
    }
    by_path = collections.defaultdict(list)
    for weight in names.weights(definition):
        by_path[weight.path].append(weight)
    assert by_path.keys() == leaves.keys()
    for path, weights in by_path.items():
        layers = [weight.layer for weight in weights]
        assert layers == ([None] if layers == [None] else list(range(leaves[path][0])))
        sizes = sum(int(np.prod(weight.shape)) for weight in weights)
        assert sizes == np.prod(leaves[path]), path


@pytest.mark.parametrize(
    ("attention", "parameters", "shapes"),
    [
        (
            "m2la",
            9_484_672_240,
            {
                "self_attn.q_proj.weight": (8192, 4096),
                "self_attn.q_proj.bias": (8192,),
                "self_attn.kv_a_proj_with_mqa.weight": (1024, 4096),
                "self_attn.kv_a_proj_with_mqa.bias": (1024,),
                "self_attn.kv_b_proj.weight": (8192, 896),
                "self_attn.o_proj.weight": (4096, 4096),
            },
        ),
        (
            "gqa",
            8_767_123_696,
            {
                "self_attn.q_proj.weight": (4096, 4096),
                "self_attn.k_proj.weight": (1024, 4096),
                "self_attn.k_norm.weight": (128,),
                "mlp.down_proj.weight": (4096, 12288),
            },
        ),
    ],
)
def test_8b_matches_the_released_tensors(
    attention: str, parameters: int, shapes: dict[str, tuple[int, ...]]
):
    """Both have 750 tensors, as the released Qwen3-VL-8B and the InternVideo3 training code."""
    weights = {w.name: w.shape for w in names.weights(ModelDefinition(spec.base_8b(attention)))}
    assert len(weights) == 750
    assert sum(int(np.prod(shape)) for shape in weights.values()) == parameters
    for name, shape in shapes.items():
        assert weights[f"model.language_model.layers.35.{name}"] == shape
    assert weights["model.visual.patch_embed.proj.weight"] == (1152, 3, 2, 16, 16)
    assert weights["model.visual.deepstack_merger_list.2.norm.weight"] == (4608,)
    assert weights["lm_head.weight"] == (151936, 4096)


@pytest.mark.parametrize(
    ("preset", "parameters", "tensors"),
    # 2b, 4b, 32b: tensors = text 11 L + 2, vision 12 depth + 3 + 6 + 18, and a head if untied.
    [("2b", 2_127_532_032, 625), ("4b", 4_437_815_808, 713), ("32b", 33_357_390_064, 1058)],
)
def test_other_sizes_match_the_released_counts(preset: str, parameters: int, tensors: int):
    weights = names.weights(ModelDefinition(spec.PRESETS[preset]("gqa")))
    assert sum(int(np.prod(weight.shape)) for weight in weights) == parameters
    assert len(weights) == tensors


@pytest.mark.parametrize("preset", ["2b", "4b", "8b", "32b"])
def test_latent_cache_is_half_of_the_grouped_cache(preset: str):
    text = spec.PRESETS[preset]("m2la").text
    assert 2 * (text.kv_rank + text.head_dim) == 2 * text.kv_heads * text.head_dim


def read(form: names.Form, array: np.ndarray) -> np.ndarray:
    """The array in the ivx form, written through the view that `ivx.hf.read` uses."""
    shape = einops.rearrange(array, f"{form.theirs} -> {form.ours}").shape
    ours = np.empty(shape, array.dtype)
    form.to_theirs(ours)[...] = array
    return ours


def test_patch_matrix_equals_the_convolution():
    """Conv3d with kernel = stride = (2, 16, 16) over frames, in float64, equals rows @ matrix."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 64, 32, 3), dtype=np.uint8)
    kernel = rng.standard_normal((5, 3, 2, 16, 16))
    rows = patches.patchify(frames).astype(np.float64)
    ours = rows @ read(names.CONV, kernel)
    grid = patches.patch_grid(4, 2)
    for slice_, (first, second) in enumerate(((0, 1), (2, 3))):
        for row, (y, x, _, _) in enumerate(grid):
            square = np.s_[16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
            patch = np.stack([frames[first][square], frames[second][square]]).astype(np.float64)
            theirs = np.einsum("fyxc,dcfyx->d", patch, kernel)
            np.testing.assert_allclose(ours[slice_, row], theirs, rtol=1e-12)


@pytest.mark.parametrize(
    ("form", "shape"),
    [(names.PLAIN, (4, 6)), (names.LINEAR, (4, 6)), (names.CONV, (4, 3, 2, 16, 16))],
)
def test_form_survives_a_round_trip_through_a_view(form: names.Form, shape: tuple[int, ...]):
    array = np.arange(np.prod(shape)).reshape(shape)
    ours = read(form, array)
    expected = einops.rearrange(array, f"{form.theirs} -> {form.ours}")
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(form.to_theirs(ours), array)
    # Tensors are read into the parameters through this view.
    assert np.shares_memory(form.to_theirs(ours), ours)
