"""What the charts share: matplotlib's settings, percent axes, and a figure as an image.

with plot.figure((8, 5)) as figure:
    axis = figure.subplots()
    …
    return plot.rendered(figure)
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from clipjax.pictures import canvas

DPI = 100
STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "text.parse_math": False,  # a class or evaluator may be called "$100"
    "text.color": canvas.INK,
    "axes.edgecolor": canvas.MUTED,
    "axes.labelcolor": canvas.MUTED,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": canvas.MUTED,
    "ytick.color": canvas.MUTED,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.8,
    "legend.fontsize": 8,
    "text.usetex": False,
}


@contextlib.contextmanager
def figure(size: tuple[float, float]) -> Iterator[Any]:
    """A matplotlib figure of `size` inches in the house's style.

    Raises ImportError where matplotlib is not installed.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with warnings.catch_warnings(), mpl.rc_context(STYLE):
        warnings.simplefilter("ignore")  # of letters that the font lacks
        yield Figure(figsize=size, dpi=DPI, facecolor=canvas.PAPER)


def percent(axis: Any, which: str = "y") -> None:
    """Shares on an axis as percent."""
    chosen = axis.yaxis if which == "y" else axis.xaxis
    chosen.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")


def plain(axis: Any, *, grid: str = "both") -> None:
    """A light grid behind, and no ticks."""
    axis.grid(True, axis=grid, color=canvas.HAIRLINE, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(length=0)


def rendered(figure: Any) -> Image.Image:
    """The figure's pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    agg = FigureCanvasAgg(figure)
    agg.draw()
    return Image.fromarray(np.asarray(agg.buffer_rgba())).convert("RGB")
