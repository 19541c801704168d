"""Inference in bfloat16 on a CPU: no copy of the weights in float32."""

import jax
import jax.numpy as jnp
import numpy as np

from ivx.models import spec as specs
from ivx.models.definition import ModelDefinition, cast, held_in
from ivx.parallel import compiler
from ivx.sampling import programs


def test_loop_over_layers_holds_no_copy_of_the_weights():
    kernels = jax.ShapeDtypeStruct((8, 256, 256), jnp.bfloat16)
    x = jax.ShapeDtypeStruct((1, 256), jnp.bfloat16)

    def run(x, kernels):
        return jax.lax.scan(lambda x, kernel: (x @ kernel, None), x, kernels)[0]

    options = compiler.inference_options(None, "bfloat16")
    compiled = jax.jit(run, compiler_options=options).lower(x, kernels).compile()
    # One layer as float32 takes 256 KiB, all of them 2 MiB.
    assert compiled.memory_analysis().temp_size_in_bytes < 2**20


def test_held_in_bfloat16_casts_matrices_only():
    definition = ModelDefinition(specs.tiny("m2la", "bfloat16"))
    shapes = held_in("bfloat16", definition.abstract_params)
    held = cast(definition.init(0), "bfloat16")
    for a, b in zip(jax.tree.leaves(shapes), jax.tree.leaves(held), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    norms = held["language_model"]["norm"]["scale"]
    assert norms.dtype == jnp.float32


def test_layers_are_views_of_the_stack():
    definition = ModelDefinition(specs.tiny("gqa"))
    params = definition.init(0)
    views = programs.unstacked(definition, None)(params)
    copies = programs.unstack(definition, params)
    assert jax.tree.structure(views) == jax.tree.structure(copies)
    for a, b in zip(jax.tree.leaves(views), jax.tree.leaves(copies), strict=True):
        np.testing.assert_array_equal(a, b)
    kernel = params["language_model"]["layers"]["mlp"]["down_proj"]["kernel"]
    first = views[0]["mlp"]["down_proj"]["kernel"].get_value()
    assert first.unsafe_buffer_pointer() == kernel.unsafe_buffer_pointer()
