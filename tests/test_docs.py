"""The documentation: links resolve, excerpts are true, commands and config keys exist."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

from ivx import config_keys
from tests import refresh_tour, run_docs

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOK = ROOT / "docs" / "first_hour.ipynb"
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
# What looks like a config key and is none: files, and a method.
_NO_KEYS = {"data.json", "data.md", "model.safetensors", "stage.loss"}
_FENCE = re.compile(r"```.*?```", re.DOTALL)


@pytest.fixture(scope="module")
def commands() -> set[str]:
    """The sub-commands that `ivx --help` lists."""
    command = [sys.executable, "-m", "ivx", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return set(re.findall(r"^  ([a-z-]+) ", shown.stdout, re.MULTILINE))


def anchor(heading: str) -> str:
    """The address of a heading, as GitHub and MkDocs make it."""
    plain = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(page: pathlib.Path) -> set[str]:
    text = _FENCE.sub("", page.read_text())
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_resolves(page: pathlib.Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text())):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}, which does not exist"
        if heading and target.suffix == ".md":
            assert heading in anchors(target), f"{target.name} has no heading #{heading}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_excerpt_stands_in_its_file(page: pathlib.Path) -> None:
    for excerpt in refresh_tour.excerpts(page.read_text()):
        source = refresh_tour.normalised((ROOT / excerpt.path).read_text())
        position = 0
        for part in refresh_tour.parts(excerpt.code):
            position = source.find(part, position)
            assert position >= 0, (
                f"{excerpt.path} no longer holds an excerpt of {page.name}; run"
                f" `python -m tests.refresh_tour` and read the page again:\n{part}"
            )


def test_tour_quotes_all_files_of_the_walk() -> None:
    paths = {e.path for e in refresh_tour.excerpts((ROOT / "docs" / "tour.md").read_text())}
    assert paths >= {
        "data_pipelines/loader.py",
        "ivx/training/step.py",
        "ivx/training/loop.py",
        "ivx/stages/language_model.py",
        "ivx/models/model.py",
    }


def test_refreshed_excerpt_has_the_named_lines() -> None:
    marker = "<!-- from: ivx/shapes.py | B   batch | T   query | V   voc | L   lay -->"
    page = f"{marker}\n```python\n?\n```"
    [excerpt] = refresh_tour.excerpts(refresh_tour.refresh(page).page)
    first, *_, gap, _, last = excerpt.code.splitlines()
    assert (first[:9], gap, last) == ("B   batch", "...", "L   layers")


def test_missing_anchor_is_an_error() -> None:
    with pytest.raises(ValueError, match="has no line with 'no such line'"):
        refresh_tour.read("ivx/shapes.py", ["no such line", "B"])


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_on_the_page_exist(page: pathlib.Path, commands: set[str]) -> None:
    text = page.read_text()
    shown = "\n".join(re.findall(r"```(?:bash|sh|text)\n(.*?)```", text, re.DOTALL))
    called = r"(?:^|[/( ])ivx ([a-z-]+)(?: --| [/A-Z$]| \.\.\.|$)"
    named = set(re.findall(called, shown, re.MULTILINE)) | set(re.findall(r"`ivx ([a-z-]+)", text))
    named = {name for name in named if not name.startswith("-")}
    assert named <= commands, sorted(named - commands)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_config_keys_on_the_page_exist(page: pathlib.Path) -> None:
    text = page.read_text()
    sections = "|".join([*config_keys.SECTIONS, "stage"])
    keys = set(re.findall(rf"--config\.((?:{sections})\.\w+)", text))
    keys |= set(re.findall(rf"`((?:{sections})\.[a-z_0-9]+)(?:`| =|=)", text))
    keys -= _NO_KEYS
    assert keys <= set(config_keys.everything()), sorted(keys - set(config_keys.everything()))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_paths_on_the_page_exist(page: pathlib.Path) -> None:
    text = _FENCE.sub("", page.read_text())
    roots = "ivx|data_pipelines|experiments|benchmarks|tests|assets"
    for path in re.findall(rf"`((?:{roots})/[\w./-]+)(?:::\w+)?`", text):
        if "NAME" in path:
            continue
        assert (ROOT / path).exists(), f"{page.name} names {path}, which does not exist"


def test_blocks_of_the_readme_form_a_valid_script() -> None:
    page = (ROOT / "README.md").read_text()
    languages = [block.language for block in run_docs.blocks(page)]
    assert "bash" in languages and "python" in languages
    script = run_docs.script(page)
    assert "make demo" not in script and "pip install" not in script
    checked = subprocess.run(["bash", "-n"], input=script, text=True, check=False)
    assert checked.returncode == 0
    for block in run_docs.blocks(page):
        if block.language == "python":
            compile(block.text, "README.md", "exec")


@pytest.mark.docs
def test_blocks_of_the_readme_run(tmp_path: pathlib.Path) -> None:
    page = (ROOT / "README.md").read_text()
    assert run_docs.run(page, tmp_path / "ivx").returncode == 0


def test_notebook_holds_no_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert 6 <= len(code) <= 14
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.mark.docs
def test_notebook_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    # The kernel is a process of its own, with one device as outside of tests.
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setenv("IVX_FIRST_HOUR", str(tmp_path / "first_hour"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": ROOT}})
    client.execute()
