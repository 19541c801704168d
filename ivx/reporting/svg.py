"""A matplotlib figure as inline SVG."""

import io

from matplotlib import figure, text

from ivx.text.printable import printable


def render(canvas: figure.Figure) -> str:
    """The <svg> element of a figure, the same for the same figure."""
    for words in canvas.findobj(text.Text):
        # Names of data sets may hold anything; a dollar sign begins no formula.
        words.set_parse_math(False)
        words.set_text(printable(words.get_text()))
    out = io.StringIO()
    canvas.savefig(out, format="svg", metadata={"Date": None})
    drawn = out.getvalue()
    return drawn[drawn.index("<svg") :]
