"""One style for all figures: colours, sizes, and a figure that shows itself in a notebook."""

import base64
import io

import matplotlib.figure

# One colour a role (Okabe and Ito's palette, distinct to colour-blind eyes too).
PS, WORKER, COMMUNICATION, WAITING, FAILURE = "#E69F00", "#0072B2", "#56B4E9", "#BBBBBB", "#D55E00"
INK = "#222222"
WIDTH = 7.0  # inches: 700 pixels, the column of a page
STYLE = {
    "figure.dpi": 100,
    # The ground is opaque, so that ink stays readable on a dark page.
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "white"),
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.size": 9,
}


class Figure(matplotlib.figure.Figure):
    """A Matplotlib figure that displays itself in any notebook, whether or not the inline backend is active."""

    def _repr_mimebundle_(self, include=None, exclude=None):
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=2 * self.dpi, metadata={"Software": None})  # sharp on dense screens
        width, height = (round(inches * self.dpi) for inches in self.get_size_inches())
        data = base64.b64encode(png.getvalue()).decode()
        return {"image/png": data}, {"image/png": {"width": width, "height": height}}


def new_figure(height: float) -> Figure:
    """Makes an empty figure of the page's width; ``height`` in inches. Call it within ``mpl.rc_context(STYLE)``."""
    return Figure(figsize=(WIDTH, height), layout="constrained")
