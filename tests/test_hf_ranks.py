"""Latent ranks that differ between layers: padding changes neither outputs nor training."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from ivx.errors import UserError
from ivx.hf import config, json_file, processor, ranks, read, shards, write
from ivx.hf.shards import SINGLE
from ivx.models.definition import ModelDefinition, Params
from ivx.models.latent_attention import LatentAttention
from ivx.models.rope import text_rope
from ivx.text import compact_tokenizer, tokenizer
from tests.conftest import small_spec

RANKS = (24, 16, 8)
ROPE = 16
LAYER = "model.language_model.layers.{}.self_attn."


@pytest.fixture(scope="module")
def definition() -> ModelDefinition:
    return ModelDefinition(small_spec("m2la"))


@pytest.fixture(scope="module")
def tensors(
    definition: ModelDefinition, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    """Tensors of a folder with latent ranks 24, 16 and 8."""
    folder = tmp_path_factory.mktemp("ranks")
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: 0.1 * rng.standard_normal(a.shape, np.float32), definition.abstract_params
    )
    shards.write_params(folder, definition, params, np.dtype(np.float32), 1e12)
    tensors = load_file(folder / SINGLE)
    for layer, rank in enumerate(RANKS):
        for name in ("kv_a_proj_with_mqa.weight", "kv_a_proj_with_mqa.bias"):
            full = tensors[LAYER.format(layer) + name]
            tensors[LAYER.format(layer) + name] = np.concatenate([full[:rank], full[-ROPE:]])
        name = LAYER.format(layer) + "kv_b_proj.weight"
        tensors[name] = np.ascontiguousarray(tensors[name][:, :rank])
    return tensors


@pytest.fixture(scope="module")
def params(
    definition: ModelDefinition,
    tensors: dict[str, np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
) -> Params:
    folder = tmp_path_factory.mktemp("read")
    save_file(tensors, folder / SINGLE)
    return read.read_params(folder, definition, RANKS)


def layer_of(params: Params, layer: int) -> dict:
    return jax.tree.map(lambda a: a[layer], params["language_model"]["layers"]["self_attn"])


@functools.partial(jax.jit, static_argnums=0)
def attend(rank: int, weights: dict, x_btd: jax.Array | np.ndarray) -> jax.Array:
    """The attention of one layer with these weights."""
    spec = dataclasses.replace(small_spec("m2la").text, kv_rank=rank)
    graph, state = nnx.split(LatentAttention(spec, jnp.float32, nnx.Rngs(0)))
    nnx.replace_by_pure_dict(state, weights)
    length = x_btd.shape[1]
    positions = jnp.broadcast_to(jnp.arange(length), (1, 3, length))
    rope = text_rope(positions, spec.head_dim, spec.rope_theta, spec.mrope_sections)
    return nnx.merge(graph, state)(x_btd, rope, jnp.ones((1, length), jnp.int32))[0]


def inputs() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 9, 48)).astype(np.float32)


@pytest.mark.parametrize("layer", range(3))
def test_padded_layer_computes_what_the_stored_layer_does(
    params: Params, tensors: dict[str, np.ndarray], layer: int
):
    """The stored layer, in a module of its rank, against the padded one."""
    stored = {
        name: {
            kind: tensors[f"{LAYER.format(layer)}{theirs}.{key}"].T
            for kind, key in (("kernel", "weight"), ("bias", "bias"))
            if f"{LAYER.format(layer)}{theirs}.{key}" in tensors
        }
        for name, theirs in (
            ("q_proj", "q_proj"),
            ("kv_a_proj", "kv_a_proj_with_mqa"),
            ("kv_b_proj", "kv_b_proj"),
            ("o_proj", "o_proj"),
        )
    }
    np.testing.assert_allclose(
        attend(max(RANKS), layer_of(params, layer), inputs()),
        attend(RANKS[layer], stored, inputs()),
        rtol=1e-5,
        atol=1e-5,
    )


def test_gradients_of_padding_are_zero(params: Params):
    layer, rank = layer_of(params, 1), RANKS[1]
    loss = jax.jit(lambda weights: jnp.square(attend(max(RANKS), weights, inputs())).sum())
    gradients = jax.grad(loss)(layer)
    for tree in (layer, gradients):
        assert not np.any(tree["kv_a_proj"]["kernel"][:, rank : max(RANKS)])
        assert not np.any(tree["kv_a_proj"]["bias"][rank : max(RANKS)])
        assert not np.any(tree["kv_b_proj"]["kernel"][rank:])
    assert np.any(gradients["kv_b_proj"]["kernel"][:rank])


def test_config_lists_ranks_and_the_largest_is_that_of_the_model(tmp_path: pathlib.Path):
    content = config.write_config(small_spec("m2la"), tokenizer.load("compact"))
    del content["text_config"]["kv_lora_rank"]
    content["text_config"]["kv_lora_rank_list"] = list(RANKS)
    json_file.write(tmp_path / "config.json", content)
    assert config.read_spec(tmp_path).text.kv_rank == 24
    assert config.read_ranks(tmp_path) == RANKS


def test_export_removes_padding(
    definition: ModelDefinition,
    params: Params,
    tensors: dict[str, np.ndarray],
    tmp_path: pathlib.Path,
):
    """The tensors equal those that were read, bitwise, and so does a second read."""
    rules, folder = processor.FrameRules(), tmp_path / "model"
    write.export(folder, definition, params, compact_tokenizer.PATH, rules, {}, "float32")
    written = load_file(folder / SINGLE)
    assert written.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(written[name], tensor, err_msg=name)
    assert config.read_ranks(folder) == RANKS
    again = read.read_params(folder, definition, config.read_ranks(folder))
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert "| latent rank of each layer | 24, 16, 8 |" in (folder / "README.md").read_text()


def test_equal_ranks_are_not_listed(
    definition: ModelDefinition, params: Params, tmp_path: pathlib.Path
):
    """Neither for full latents nor for zeros only, since a reader must get the same sizes."""
    full = jax.tree.map(lambda a: np.ones(a.shape, np.float32), definition.abstract_params)
    assert ranks.layer_ranks(definition, full) == ()
    assert ranks.layer_ranks(definition, jax.tree.map(np.zeros_like, full)) == ()
    narrow = jax.tree.map(np.copy, params)
    for kind in ("kv_a_proj", "kv_b_proj"):
        for array in narrow["language_model"]["layers"]["self_attn"][kind].values():
            array[0] = array[2]
    assert ranks.layer_ranks(definition, narrow) == (8, 24, 8)


def test_shapes_that_contradict_the_ranks_are_rejected(
    definition: ModelDefinition, tensors: dict[str, np.ndarray], tmp_path: pathlib.Path
):
    save_file(tensors, tmp_path / SINGLE)
    with pytest.raises(
        UserError, match=r"1\.self_attn\.kv_b_proj\.weight .* \[128, 16\], expected"
    ):
        read.read_params(tmp_path, definition, (24, 8, 8))
