"""JAX settings that must be made before the backends are initialized."""

import os
import pathlib

import jax


def configure_devices(cpu_devices: int) -> None:
    """Enables the compilation cache, and on a CPU splits the host into `cpu_devices` devices.

    Two devices with one thread each keep two cores busier than one device with two threads, which
    runs small operations on one core. Call this before JAX initializes its backends.

    Args:
      cpu_devices: number of CPU devices; 0 keeps JAX's default (one).
    """
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not cache:
        home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(home / "ivx" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    forced = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    # The stages of a recipe share a process; later stages find the devices already configured.
    if cpu_devices and not forced and jax.config.jax_num_cpu_devices != cpu_devices:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
