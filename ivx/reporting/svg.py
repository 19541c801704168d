"""A matplotlib figure as inline SVG."""

import io

from matplotlib import figure


def render(canvas: figure.Figure) -> str:
    """The <svg> element of a figure, the same for the same figure."""
    out = io.StringIO()
    canvas.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
