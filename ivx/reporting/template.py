"""The templates of pages. What a page shows cannot add tags to it, nor control characters."""

import pathlib
from typing import Any

import jinja2
import markupsafe

from ivx.text.printable import printable


def _printable(value: Any) -> Any:
    """What a template shows; markup stays markup."""
    if isinstance(value, markupsafe.Markup):
        return markupsafe.Markup(printable(value))
    return printable(value) if isinstance(value, str) else value


ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("ivx.reporting", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    finalize=_printable,
)


def write(path: pathlib.Path, template: str, **values: Any) -> pathlib.Path:
    """Fills a template and writes the page; returns `path`.

    Args:
      path: the page.
      template: a file below `ivx/reporting`.
      values: by their names in the template; strings are escaped, `| safe` marks SVG.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ENVIRONMENT.get_template(template).render(values), encoding="utf-8")
    return path
