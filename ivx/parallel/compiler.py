"""What XLA is told beside a program, by the devices that it is for.

`xla_tpu_scoped_vmem_limit_kib` is how much of a core's vector memory one operation may fill with
its tiles. By default it is so little that products of the widths of a language model wait for
memory. A feed-forward layer of 8b, forward and backward on 16,384 tokens, as a share of the
peak by the compiler's estimate:

    v6e  default 0.556, 48 MiB 0.689, 64 MiB 0.771, 96 MiB 0.815
    v5p  default 0.800, 48 MiB 0.980

The Pallas kernels ask for their own (`vmem_limit_bytes`). Compiling takes longer, two to four times
for that layer.
"""

from jax.sharding import Mesh

# What JAX calls a device -> what topologies call its generation.
KINDS = {
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "tpu7x",
}
# KiB: three quarters of the 128 or 64 MiB of a core.
TILES = {"v5e": 98304, "v5p": 49152, "v6e": 98304, "tpu7x": 49152}


def options(mesh: Mesh) -> dict[str, str]:
    """`compiler_options` of `jax.jit` for programs of products; none for devices of other kinds."""
    generation = KINDS.get(mesh.devices.flat[0].device_kind)
    return {"xla_tpu_scoped_vmem_limit_kib": str(TILES[generation])} if generation else {}
