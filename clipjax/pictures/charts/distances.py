"""How far from the truth places were guessed: the share within each distance (paper, table 17)."""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from clipjax.pictures import canvas, plot

SCALES = {1: "street", 25: "city", 200: "region", 750: "country", 2500: "continent"}  # kilometres
FARTHEST = 20_038  # half around the earth


def draw(
    distances: np.ndarray,
    *,
    shares: Mapping[float, tuple[float, float, float]],
    published: Mapping[str, Mapping[int, float]],
    title: str,
) -> Image.Image:
    """The picture.

    Args:
      distances: float [N], kilometres; what is no number is within no distance.
      shares: kilometres → (share, low, high), drawn with their intervals.
      published: method → kilometres → share.
      title: what was measured.
    """
    with plot.figure((8.2, 4.8)) as figure:
        axis = figure.subplots()
        figure.subplots_adjust(0.09, 0.17, 0.97, 0.88)
        axis.set_title(title, pad=9, fontsize=12)
        plot.plain(axis)
        axis.set_xscale("log")
        ordered = np.sort(np.clip(distances[np.isfinite(distances)], 0.1, FARTHEST))
        steps = np.arange(1, len(ordered) + 1) / max(len(distances), 1)
        axis.step(ordered, steps, where="post", color=canvas.BLUE, linewidth=1.5, label="ours")
        for kilometres, (value, low, high) in shares.items():
            axis.errorbar(
                [kilometres],
                [value],
                yerr=[[value - low], [high - value]],
                color=canvas.BLUE,
                marker="o",
                markersize=5,
                capsize=2.5,
                elinewidth=1.1,
            )
        marks = zip(published.items(), ("D", "s", "^", "v", "P"), canvas.SERIES[1:], strict=False)
        for (method, points), marker, color in marks:
            axis.plot(
                list(points),
                list(points.values()),
                marker=marker,
                markersize=5,
                linestyle=":",
                linewidth=1,
                color=color,
                label=method,
            )
        axis.set_xticks(list(SCALES), [f"{km:,} km\n{words}" for km, words in SCALES.items()])
        axis.minorticks_off()
        axis.set_xlim(0.5, FARTHEST)
        axis.set_ylim(0, 1)
        axis.set_ylabel("share of photographs")
        plot.percent(axis)
        axis.legend(loc="upper left")
        return plot.rendered(figure)
