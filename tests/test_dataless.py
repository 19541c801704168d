"""What is compiled with no data behind it is what a run calls, with the same arguments."""

import jax
import numpy as np
import pytest

from data_pipelines.layout import Layout
from experiments import rl_gspo
from ivx import build
from ivx.build import dataless
from ivx.conversion import halved
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition
from ivx.parallel import rules
from ivx.parallel.mesh import make_mesh
from ivx.sampling.sampler import Sampler
from tests.small import small_spec

DEFINITION = ModelDefinition(small_spec())
SIZES = {"replica": 1, "fsdp": 2, "tensor": 2, "context": 2}


def a_config():
    """Two questions of 64 tokens without a picture, three answers of eight to each."""
    config = rl_gspo.get_config("tiny")
    config.mesh.update(**SIZES)
    config.data.update(pack_tokens=64, pack_patches=64, slice_block=64)
    config.stage.update(prompts=2, group=3, max_new_tokens=8)
    return config


def place(array, like) -> bool:
    """Whether an array is the shape that was asked for, where it was asked for."""
    if not hasattr(like, "sharding") or like.sharding is None:
        return True
    same = (array.shape, array.dtype) == (like.shape, like.dtype)
    return same and array.sharding.is_equivalent_to(like.sharding, array.ndim)


def test_prefill_and_decode_are_those_of_the_sampler(monkeypatch):
    monkeypatch.setattr(build, "model_definition", lambda config: DEFINITION)
    mesh, called = make_mesh(SIZES), {}

    def watched(name, function):
        def run(*arguments, **options):
            called[name] = (
                jax.tree.map(
                    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), arguments
                ),
                options,
            )
            return function(*arguments, **options)

        return run

    shardings = rules.parameter_shardings(DEFINITION.abstract, mesh)
    params = jax.device_put(DEFINITION.init(0), shardings)
    drawing = Sampler(DEFINITION, params, -1, mesh)
    drawing._prefill = watched("prefill", drawing._prefill)
    drawing._decode = watched("decode", drawing._decode)
    none, places = np.zeros(40, bool), np.tile(np.arange(40, dtype=np.int32), (3, 1))
    tokens = np.random.default_rng(0).integers(0, 700, (2, 40)).astype(np.int32)
    prompts = [Layout("x", row, none, places, none, ()) for row in tokens]
    drawing.sample(prompts, [([], [])] * 2, 8, 3, 1.0, jax.random.key(0))

    for part, (arguments, options) in called.items():
        asked = dataless.program(a_config(), mesh, "tiny", part)
        assert options == asked.options
        assert jax.tree.structure(arguments) == jax.tree.structure(asked.arguments)
        found = jax.tree_util.tree_leaves_with_path(arguments)
        for (path, array), like in zip(found, jax.tree.leaves(asked.arguments), strict=True):
            assert place(array, like), (part, path, array, like)
    assert called.keys() == {"prefill", "decode"}


def test_a_part_that_a_stage_has_not_is_refused_with_those_it_has():
    mesh = make_mesh(SIZES)
    with pytest.raises(UserError, match="gspo has step, prefill, decode, not 'matching'"):
        dataless.program(a_config(), mesh, "tiny", "matching")


def test_what_is_halved_is_what_was_bfloat16():
    params = jax.tree.map(lambda a: a.astype("bfloat16").astype("float32"), DEFINITION.init(0))
    shapes = halved.halved_shapes(DEFINITION.abstract_params)
    halved.halve(params)
    found = jax.tree.map(lambda a: a.dtype, params)
    assert found == jax.tree.map(lambda a: a.dtype, shapes)
    assert {str(dtype) for dtype in jax.tree.leaves(found)} == {"bfloat16", "float32"}
