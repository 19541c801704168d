"""Programs compiled without data are those that a run calls, with the same arguments."""

import jax
import numpy as np
import pytest

from data_pipelines.layout import Layout
from experiments import rl_gspo
from ivx import from_config
from ivx.conversion import lossless_bfloat16
from ivx.errors import UserError
from ivx.models.definition import ModelDefinition
from ivx.parallel import sharding
from ivx.parallel.mesh import make_mesh
from ivx.sampling.sampler import Sampler
from tests.small import small_spec

DEFINITION = ModelDefinition(small_spec())
SIZES = {"replica": 1, "fsdp": 2, "tensor": 2, "context": 2}


def make_config():
    """Two text-only questions of 64 tokens, with three answers of 8 tokens each."""
    config = rl_gspo.get_config("tiny")
    config.mesh.update(**SIZES)
    config.data.update(pack_tokens=64, pack_patches=64, slice_block=64)
    config.stage.update(prompts=2, group=3, max_new_tokens=8)
    return config


def matches(array, like) -> bool:
    """Whether an array has the expected shape, dtype and sharding."""
    if not hasattr(like, "sharding") or like.sharding is None:
        return True
    same = (array.shape, array.dtype) == (like.shape, like.dtype)
    return same and array.sharding.is_equivalent_to(like.sharding, array.ndim)


def test_prefill_and_decode_match_sampler_calls(monkeypatch):
    monkeypatch.setattr(from_config.model, "definition", lambda config: DEFINITION)
    mesh, calls = make_mesh(SIZES), {}

    def recorded(name, function):
        def run(*arguments, **options):
            calls[name] = (
                jax.tree.map(
                    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), arguments
                ),
                options,
            )
            return function(*arguments, **options)

        return run

    shardings = sharding.parameter_shardings(DEFINITION.abstract, mesh)
    params = jax.device_put(DEFINITION.init(0), shardings)
    sampler = Sampler(DEFINITION, params, -1, mesh)
    sampler._prefill = recorded("prefill", sampler._prefill)
    sampler._decode = recorded("decode", sampler._decode)
    none, positions = np.zeros(40, bool), np.tile(np.arange(40, dtype=np.int32), (3, 1))
    tokens = np.random.default_rng(0).integers(0, 700, (2, 40)).astype(np.int32)
    prompts = [Layout("x", row, none, positions, none, ()) for row in tokens]
    sampler.sample(prompts, [([], [])] * 2, 8, 3, 1.0, jax.random.key(0))

    for part, (arguments, options) in calls.items():
        program = from_config.programs.program(make_config(), mesh, "tiny", part)
        assert options == program.options
        assert jax.tree.structure(arguments) == jax.tree.structure(program.arguments)
        leaves = jax.tree_util.tree_leaves_with_path(arguments)
        for (path, array), like in zip(leaves, jax.tree.leaves(program.arguments), strict=True):
            assert matches(array, like), (part, path, array, like)
    assert calls.keys() == {"prefill", "decode"}


def test_unknown_program_is_refused_with_list_of_programs():
    mesh = make_mesh(SIZES)
    with pytest.raises(
        UserError, match="gspo has no program 'matching'; use one of step, prefill, decode"
    ):
        from_config.programs.program(make_config(), mesh, "tiny", "matching")


def test_halved_shapes_match_halved_parameters():
    params = jax.tree.map(lambda a: a.astype("bfloat16").astype("float32"), DEFINITION.init(0))
    shapes = lossless_bfloat16.compact_shapes(DEFINITION.abstract_params)
    lossless_bfloat16.compact(params)
    dtypes = jax.tree.map(lambda a: a.dtype, params)
    assert dtypes == jax.tree.map(lambda a: a.dtype, shapes)
    assert {str(dtype) for dtype in jax.tree.leaves(dtypes)} == {"bfloat16", "float32"}
