"""XLA compiler options, by TPU generation.

`xla_tpu_scoped_vmem_limit_kib` limits how much of a core's vector memory a single operation may use
for its tiles. With the small default, products of the widths of a language model wait for memory. A
higher limit takes longer to compile. For a feed-forward layer of 8b, forward and backward on 16,384
tokens, the fraction of peak by the compiler's estimate, and compile seconds:

           default      32 MiB       48 MiB        64 MiB       96 MiB
    v5e    0.763, 11    0.956, 38    0.961, 52     0.957, 118
    v5p    0.800, 11    0.966, 24    0.980, 62
    v6e    0.556, 22                 0.689, 40     0.771, 58    0.815, 178
    tpu7x  0.662, 51    0.662, 32    0.850, 51

The full step of continued pretraining takes 11 minutes to compile for v5p with 48 MiB, and 16 for
v6e with 96 MiB; it takes four minutes with the default. The chosen limits give most of the gain.
The Pallas kernels set their own limit (`vmem_limit_bytes`).
"""

import jax
from jax.sharding import Mesh

# JAX device kind -> generation name of topologies.
KINDS = {
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "tpu7x",
}
# Limit in MiB. A core has 128 MiB on v5e and v6e, and 64 MiB on the others.
TILES = {"v5e": 32, "v5p": 32, "v6e": 64, "tpu7x": 48}


def options(mesh: Mesh) -> dict[str, str]:
    """`compiler_options` of `jax.jit` for training programs; empty for other devices."""
    generation = KINDS.get(mesh.devices.flat[0].device_kind)
    if not generation:
        return {}
    return {"xla_tpu_scoped_vmem_limit_kib": str(1024 * TILES[generation])}


def inference_options(mesh: Mesh | None, dtype: str) -> dict[str, str]:
    """`compiler_options` of `jax.jit` for inference programs.

    XLA:CPU multiplies bfloat16 in float32. By default it casts the weights of all layers before the
    loop over layers or tokens, and keeps them: three times the memory. With these options it casts
    each weight when it is used, into memory that the next one reuses.
    """
    platform = mesh.devices.flat[0].platform if mesh else jax.default_backend()
    if platform != "cpu" or dtype != "bfloat16":
        return {}
    return {
        "xla_disable_hlo_passes": "while-loop-invariant-code-motion",
        "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    }
