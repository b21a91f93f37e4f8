"""The search of a probe's penalty: what each one reached on the validation rows."""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from clipjax.pictures import canvas, plot

Value = tuple[float, float, float]


def draw(searched: Mapping[float, Value], *, chosen: float, title: str, ylabel: str) -> Image.Image:
    """The picture.

    Args:
      searched: penalty → (value, low, high) on the validation rows, as shares.
      chosen: the penalty that was taken.
      title, ylabel: what was measured.
    """
    penalties = sorted(searched)
    value, low, high = np.array([searched[p] for p in penalties]).T
    with plot.figure((7.2, 3.6)) as figure:
        axis = figure.subplots()
        figure.subplots_adjust(0.1, 0.16, 0.97, 0.86)
        axis.set_title(title, pad=9, fontsize=12)
        plot.plain(axis)
        axis.set_xscale("log")
        axis.fill_between(penalties, low, high, color=canvas.BLUE, alpha=0.15, linewidth=0)
        axis.plot(penalties, value, color=canvas.BLUE, linewidth=1.2, marker="o", markersize=4.5)
        best = searched[chosen][0]
        axis.plot(
            [chosen],
            [best],
            marker="o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor=canvas.RED,
            markeredgewidth=1.8,
        )
        label = f"λ = {chosen:.3g}, C = {1 / chosen:.3g}: {best:.1%}"
        axis.plot([], [], "o", markerfacecolor="none", markeredgecolor=canvas.RED, label=label)
        axis.legend(loc="best", fontsize=8)
        axis.set_ylim(max(min(low.min(), best - 0.1), 0), min(high.max() + 0.02, 1.005))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_xlabel("penalty λ on the weights")
        axis.set_ylabel(ylabel)
        plot.percent(axis)
        return plot.rendered(figure)
