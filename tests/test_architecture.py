"""Arrows point down: who may import whom, read off the code itself."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# From the top: a package imports only from its own row or below.
ROWS = (
    {"ivx.commands", "ivx.__main__"},
    {"ivx.build"},
    {
        "ivx.stages",
        "ivx.training",
        "ivx.evaluation",
        "ivx.reporting",
        "ivx.assistant",
        "ivx.agent",
        "ivx.aot",
    },
    {"ivx.models", "ivx.sampling", "ivx.conversion", "ivx.hf"},
    {"ivx.kernels", "ivx.parallel"},
)
# Below all rows, and open to all.
GROUND = ("ivx.errors", "ivx.config", "ivx.text", "ivx.shapes", "data_pipelines")


def imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(folder: str) -> list[pathlib.Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def row_of(module: str) -> int | None:
    for number, row in enumerate(ROWS):
        if any(module == name or module.startswith(name + ".") for name in row):
            return number
    return None


def test_pipelines_know_nothing_of_ivx_but_its_text():
    for path in files("data_pipelines"):
        foreign = {name for name in imports(path) if name.split(".")[0] in ("ivx", "experiments")}
        assert all(name.startswith("ivx.text") for name in foreign), (path, foreign)


@pytest.mark.parametrize("path", files("ivx"), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_down(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    own, grounded = row_of(module), module.startswith(GROUND)
    assert own is not None or grounded or module == "ivx", f"{module} has no place in the house"
    for name in imports(path):
        assert not name.startswith("experiments"), name
        if name.startswith(("ivx.", "data_pipelines.")):
            if grounded:
                assert name.startswith(GROUND), f"{module} imports {name}"
            below = row_of(name)
            if own is not None and below is not None:
                assert below >= own, f"{module} imports {name}"


def test_only_build_and_commands_read_configs():
    for path in files("ivx"):
        reads = {
            name for name in imports(path) if name.startswith(("ivx.config", "ml_collections"))
        }
        allowed = (
            path.is_relative_to(ROOT / "ivx/commands")
            or path.parent.name == "build"
            or path.name in ("config.py", "config_checks.py")
        )
        # ivx/__init__.py and __main__.py hand a config over without looking into it.
        assert not reads or allowed or path.name in ("__init__.py", "__main__.py"), (path, reads)


def test_files_are_short():
    long = {
        str(path.relative_to(ROOT)): count
        for folder in ("ivx", "data_pipelines", "experiments")
        for path in files(folder)
        if (count := len(path.read_text().splitlines())) > 350
    }
    assert not long
