"""Who may import whom, read from the code: one strict order of packages, and no circles.

Imports inside functions count like those at the top of a file.
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# From top to bottom: a package imports from those below it only.
ORDER = (
    "ivx.__main__",
    "ivx.cli",
    "ivx.commands",
    "ivx",
    "ivx.from_config",
    "ivx.workdir",
    "ivx.config_checks",
    "ivx.config",
    "ivx.config_synonyms",
    "ivx.config_keys",
    "ivx.reporting",
    "ivx.agent",
    "ivx.evaluation",
    "ivx.assistant",
    "ivx.training",
    "ivx.stages",
    "ivx.sampling",
    "ivx.conversion",
    "ivx.hf",
    "ivx.aot",
    "ivx.judging",
    "ivx.models",
    "ivx.kernels",
    "ivx.parallel",
    "data_pipelines",
    "ivx.terminal",
    "ivx.text",
    "ivx.bundled",
    "ivx.help_page",
    "ivx.local_files",
    "ivx.suggestion",
    "ivx.shapes",
    "ivx.folder_lock",
    "ivx.signals",
    "ivx.progress",
    "ivx.errors",
)
# Commands are found by name, so the command line knows of their package and of no module in it.
OUTSIDE = ("benchmarks", "experiments", "tests")


def files(folder: str) -> list[pathlib.Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def module_of(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for folder in ("ivx", "data_pipelines") for path in files(folder)}


def imports(path: pathlib.Path) -> set[str]:
    """Modules that a file imports, anywhere in it; a name in a module counts as the module."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                imported.add(name if name in MODULES else node.module)
    return imported


def package_of(module: str) -> str | None:
    """The entry of `ORDER` that a module belongs to; the longest match counts."""
    matches = [name for name in ORDER if module == name or module.startswith(name + ".")]
    matches = [name for name in matches if name != "ivx" or module == "ivx"]
    return max(matches, key=len, default=None)


@pytest.mark.parametrize("module", MODULES)
def test_package_imports_only_from_packages_below_it(module: str):
    own = package_of(module)
    assert own is not None, f"{module} has no place in the order of packages"
    for name in imports(MODULES[module]):
        assert not name.startswith(OUTSIDE), f"{module} imports {name}"
        other = package_of(name)
        if other is not None and other != own:
            assert ORDER.index(other) > ORDER.index(own), f"{module} imports {name}"


def test_imports_within_packages_have_no_circles():
    graph = {
        module: {name for name in imports(path) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    # The package's own file re-exports its modules; these import one another by the package.
    for module, names in graph.items():
        names.discard(module.rpartition(".")[0])
    visiting, done = [], set()

    def visit(module: str) -> None:
        assert module not in visiting, " -> ".join([*visiting, module])
        if module in done:
            return
        visiting.append(module)
        for name in sorted(graph[module]):
            visit(name)
        visiting.pop()
        done.add(module)

    for module in graph:
        visit(module)


def test_pipelines_import_only_text_from_ivx():
    for path in files("data_pipelines"):
        ours = {name for name in imports(path) if name.split(".")[0] == "ivx"}
        assert all(name.startswith("ivx.text") for name in ours), (path, ours)


def test_only_from_config_and_commands_read_configs():
    readers = ("ivx.from_config", "ivx.commands", "ivx.cli", "ivx.workdir", "ivx.config")
    for module, path in MODULES.items():
        if not module.startswith(readers):
            reads = {n for n in imports(path) if n.startswith(("ivx.config", "ml_collections"))}
            assert not reads, (module, reads)


def test_packages_hold_no_logic_in_init():
    for path in MODULES.values():
        if path.name == "__init__.py" and path.parent.name != "ivx":
            body = ast.parse(path.read_text()).body
            logic = [
                type(n).__name__ for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)
            ]
            assert not logic, (path, logic)


def test_files_are_short():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for folder in ("ivx", "data_pipelines", "experiments", "benchmarks")
        for path in files(folder)
    }
    assert not {name: length for name, length in lengths.items() if length > 350}
