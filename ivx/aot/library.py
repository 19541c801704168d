"""Finds libtpu, the TPU compiler, and sets the environment of a process that uses it.

On a host without TPUs, libtpu must not be installed next to JAX: JAX would look for a TPU at every
start. `make libtpu` therefore puts it into a separate folder, and only the child process that
compiles uses it. A host with TPUs has it installed (extra `tpu`), and that copy is used.

The child needs its environment before JAX loads:

    TPU_LIBRARY_PATH           the library
    TPU_SKIP_MDS_QUERY         skips the metadata server, which would name the TPU
    ALLOW_MULTIPLE_LIBTPU_LOAD ignores a lock of another compilation
    LIBTPU_INIT_ARGS           what the compiler dumps
    JAX_PLATFORMS=cpu          uses no device other than those of the topology
"""

import importlib.metadata
import importlib.util
import os
import pathlib

from ivx.errors import UserError

# The target of `make libtpu`, in the folder that holds the ivx package.
FOLDER = pathlib.Path(__file__).parents[2] / ".libtpu"


def find() -> pathlib.Path:
    """The path of libtpu.so: TPU_LIBRARY_PATH, else that of `make libtpu`, else the installed one.

    Raises:
      UserError: libtpu is not found.
    """
    path = os.environ.get("TPU_LIBRARY_PATH")
    if path:
        if not pathlib.Path(path).is_file():
            raise UserError(f"TPU_LIBRARY_PATH={path} is not a file; unset it, or name libtpu.so")
        return pathlib.Path(path)
    fetched = FOLDER / "libtpu" / "libtpu.so"
    if fetched.is_file():
        return fetched
    installed = importlib.util.find_spec("libtpu")
    if installed and installed.submodule_search_locations:
        return pathlib.Path(installed.submodule_search_locations[0]) / "libtpu.so"
    raise UserError(
        f"compiling for TPUs needs libtpu, which is neither installed nor in {FOLDER};"
        " run `make libtpu`, which fetches it (about 200 MB) and leaves JAX unchanged"
    )


def pinned() -> str:
    """Version of the library that TPU_LIBRARY_PATH or `make libtpu` provides; empty if unknown."""
    path = os.environ.get("TPU_LIBRARY_PATH")
    site = pathlib.Path(path).parents[1] if path else FOLDER
    folders = list(site.glob("libtpu-*.dist-info"))
    return folders[0].name.split("-")[1].removesuffix(".dist") if folders else ""


def versions(*packages: str) -> dict[str, str]:
    """Versions of the installed packages among these; for libtpu, the fetched version if any."""
    installed = {}
    for package in packages:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if "libtpu" in packages and pinned():
        installed["libtpu"] = pinned()
    return installed


def environment(library: pathlib.Path, dump: pathlib.Path | None) -> dict[str, str]:
    """The environment of a compiling process.

    Args:
      library: path of libtpu.so.
      dump: folder for the compiler's schedules; None writes none, which is faster.
    """
    variables = {
        name: value
        for name, value in os.environ.items()
        # Flags of the CPU backend, and a cache whose hits would skip the dump.
        if name not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "LIBTPU_INIT_ARGS")
    }
    arguments = []
    if dump is not None:
        arguments = [f"--xla_jf_dump_to={dump}", "--xla_jf_dump_llo_text=true"]
    return variables | {
        "TPU_LIBRARY_PATH": str(library),
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "LIBTPU_INIT_ARGS": " ".join(arguments),
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
