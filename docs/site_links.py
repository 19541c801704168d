"""A hook of MkDocs: makes pages of README.md and CONTRIBUTING.md, whose links also work on GitHub.

Both lie at the root of the repository, outside of docs/. Links between them and docs/ are written
for the repository and rewritten here for the site.
"""

import pathlib
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).parents[1]
# File at the root -> page of the site.
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files at the root to the site."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites links between the root and docs/."""
    del config, files
    if page.file.src_uri in PAGES.values():
        markdown = markdown.replace("](docs/", "](")
        for name, target in PAGES.items():
            markdown = markdown.replace(f"]({name}", f"]({target}")
        return re.sub(r"\[([^]]*)\]\(LICENSE\)", r"\1", markdown)
    for name, target in PAGES.items():
        markdown = re.sub(rf"\]\(((?:\.\./)*)\.\./{name}", rf"](\1{target}", markdown)
    return markdown
