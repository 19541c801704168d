"""Where the compiler for TPUs is, and the environment of a process that uses it.

libtpu must not be installed beside JAX where there is no TPU: every start of JAX would look for
one. So `make libtpu` puts it into a folder of its own, and only the compiling process, a child, is
told of it. A host with TPUs has it installed (extra `tpu`), and that one is used.

The child needs its environment before JAX loads:

    TPU_LIBRARY_PATH           the library
    TPU_SKIP_MDS_QUERY         no metadata server is asked what TPU this is
    ALLOW_MULTIPLE_LIBTPU_LOAD a lock in the temporary folder does not stop a second compilation
    LIBTPU_INIT_ARGS           what the compiler writes down of its work
    JAX_PLATFORMS=cpu          no device but the topology's is touched
"""

import importlib.metadata
import importlib.util
import os
import pathlib

from ivx.errors import UserError

# What `make libtpu` fills, in the folder that holds the ivx package.
FOLDER = pathlib.Path(__file__).parents[2] / ".libtpu"


def find() -> pathlib.Path:
    """The library, by TPU_LIBRARY_PATH, of `make libtpu`, or as installed.

    Raises:
      UserError: there is none.
    """
    named = os.environ.get("TPU_LIBRARY_PATH")
    if named:
        if not pathlib.Path(named).is_file():
            raise UserError(f"TPU_LIBRARY_PATH={named} is no file; unset it, or name libtpu.so")
        return pathlib.Path(named)
    beside = FOLDER / "libtpu" / "libtpu.so"
    if beside.is_file():
        return beside
    installed = importlib.util.find_spec("libtpu")
    if installed and installed.submodule_search_locations:
        return pathlib.Path(installed.submodule_search_locations[0]) / "libtpu.so"
    raise UserError(
        f"compiling for TPUs needs libtpu, which is neither installed nor in {FOLDER};"
        " `make libtpu` fetches it (about 200 MB) without disturbing JAX on this machine"
    )


def pinned() -> str:
    """The version that `make libtpu` has fetched; empty where it has not."""
    found = list(FOLDER.glob("libtpu-*.dist-info"))
    return found[0].name.split("-")[1].removesuffix(".dist") if found else ""


def versions(*packages: str) -> dict[str, str]:
    """Of those that are there; of libtpu, which is not installed where it is used, as pinned."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if "libtpu" in packages and pinned():
        found["libtpu"] = pinned()
    return found


def environment(library: pathlib.Path, dump: pathlib.Path | None) -> dict[str, str]:
    """The environment of a compiling process.

    Args:
      library: libtpu.so.
      dump: where the compiler writes its schedules; None for none, which is faster.
    """
    found = {
        name: value
        for name, value in os.environ.items()
        # Flags for the CPU backend, and a cache that would keep the compiler from writing.
        if name not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "LIBTPU_INIT_ARGS")
    }
    arguments = []
    if dump is not None:
        arguments = [f"--xla_jf_dump_to={dump}", "--xla_jf_dump_llo_text=true"]
    return found | {
        "TPU_LIBRARY_PATH": str(library),
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "LIBTPU_INIT_ARGS": " ".join(arguments),
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
