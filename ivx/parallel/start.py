"""What has to be settled before JAX looks for devices."""

import os
import pathlib

import jax


def start(cpu_devices: int) -> None:
    """Turns the compilation cache on; on a CPU, splits the host into `cpu_devices` devices.

    Two devices of one thread each keep two cores busier than one device of two threads, whose small
    operations run on one core. To be called before JAX looks for devices.

    Args:
      cpu_devices: of the CPU backend; 0 leaves JAX's choice (one).
    """
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not cache:
        home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(home / "ivx" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    forced = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    # Stages of a recipe run in one process: the second finds the devices as it wants them.
    if cpu_devices and not forced and jax.config.jax_num_cpu_devices != cpu_devices:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
