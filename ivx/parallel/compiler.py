"""What XLA is told beside a program, by the devices that it is for.

`xla_tpu_scoped_vmem_limit_kib` is how much of a core's vector memory one operation may fill with
its tiles. By default it is so little that products of the widths of a language model wait for
memory. Compiling takes longer the more there is. A feed-forward layer of 8b, forward and backward
on 16,384 tokens: share of the peak by the compiler's estimate, and seconds of its work.

           default      32 MiB       48 MiB        64 MiB       96 MiB
    v5e    0.763, 11    0.956, 38    0.961, 52     0.957, 118
    v5p    0.800, 11    0.966, 24    0.980, 62
    v6e    0.556, 22                 0.689, 40     0.771, 58    0.815, 178
    tpu7x  0.662, 51    0.662, 32    0.850, 51

The whole step of continued pretraining takes 11 minutes to compile for v5p with 48 MiB, and 16 for
v6e with 96, where it takes four without; so what is taken is where most is won. The Pallas kernels
ask for their own (`vmem_limit_bytes`).
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
# MiB, of 128 of a core of v5e and v6e, 64 of the others.
TILES = {"v5e": 32, "v5p": 32, "v6e": 64, "tpu7x": 48}


def options(mesh: Mesh) -> dict[str, str]:
    """`compiler_options` of `jax.jit` for programs of products; none for devices of other kinds."""
    generation = KINDS.get(mesh.devices.flat[0].device_kind)
    if not generation:
        return {}
    return {"xla_tpu_scoped_vmem_limit_kib": str(1024 * TILES[generation])}
