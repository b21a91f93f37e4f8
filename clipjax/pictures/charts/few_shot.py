"""Few-shot probes against zero-shot: the paper's figure 6 by data set, and its figure 7.

Numbers are shares; an estimate is (value, low, high).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from clipjax.pictures import canvas, plot

Value = tuple[float, float, float]
COLUMNS = 4
GAP = 1.4  # between the most shots and all rows, in doublings


@dataclasses.dataclass(frozen=True)
class Panel:
    """One data set.

    Attributes:
      name: its own.
      points: images of each class → the probe's score.
      zero_shot: the score by names, or None.
      all_rows: (images of each class in the whole training set, the probe's score), or None.
      crossover: images of each class at which the probe is as good as zero-shot, or None.
    """

    name: str
    points: Mapping[int, Value]
    zero_shot: Value | None = None
    all_rows: tuple[float, Value] | None = None
    crossover: Value | None = None


def curves(panels: Sequence[Panel], *, title: str, ylabel: str) -> Image.Image:
    """A panel for each data set.

    Args:
      panels: at least one.
      title: what was measured.
      ylabel: the metric.
    """
    columns = min(len(panels), COLUMNS)
    rows = math.ceil(len(panels) / columns)
    size = (max(3.3 * columns, 6.6), 3.0 * rows + 1.1)
    with plot.figure(size) as figure:
        axes = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(
            0.75 / size[0],
            0.62 / size[1],
            1 - 0.2 / size[0],
            1 - 0.95 / size[1],
            wspace=0.25,
            hspace=0.42,
        )
        figure.text(
            0.2 / size[0], 1 - 0.16 / size[1], title, fontsize=13, fontweight="bold", va="top"
        )
        for axis, panel in zip(axes.flat, panels, strict=False):
            _panel(axis, panel)
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_visible(False)
        for axis in axes[:, 0]:
            axis.set_ylabel(ylabel)
        axes.flat[0].legend(loc="lower right", handlelength=1.6, labelspacing=0.3)
        middle = 0.5 if len(panels) > 1 else 0.52
        figure.text(
            *(middle, 0.14 / size[1]),
            "labelled images of each class",
            ha="center",
            color=canvas.MUTED,
        )
        return plot.rendered(figure)


def _panel(axis: Any, panel: Panel) -> None:
    axis.set_title(panel.name, pad=7)
    plot.plain(axis)
    shots = sorted(panel.points)
    x = np.log2(shots)
    places, names = list(x), [str(count) for count in shots]
    value, low, high = np.array([panel.points[count] for count in shots]).T
    axis.fill_between(x, low, high, color=canvas.BLUE, alpha=0.18, linewidth=0)
    axis.plot(x, value, color=canvas.BLUE, marker="o", markersize=4.5, label="probe")
    if panel.all_rows:
        count, whole = panel.all_rows
        at = x[-1] + GAP
        places.append(at)
        names.append(f"all\n({count:,.0f})")
        axis.plot([x[-1], at], [value[-1], whole[0]], color=canvas.BLUE, linestyle=(0, (2, 2)))
        _bar(axis, at, whole, color=canvas.BLUE, marker="s")
    left, right = -0.95, places[-1] + 0.45
    if panel.zero_shot:
        centre, below, above = panel.zero_shot
        axis.fill_between([left, right], below, above, color=canvas.ORANGE, alpha=0.16, linewidth=0)
        axis.axhline(centre, color=canvas.ORANGE, linewidth=1.4, label="zero-shot")
        axis.plot([left + 0.3], [centre], marker="*", markersize=13, color=canvas.ORANGE, zorder=5)
    if panel.crossover and panel.zero_shot:
        where = math.log2(max(panel.crossover[0], 0.55))
        inside = where <= x[-1] + 0.01
        if inside:
            axis.plot(
                [where],
                [panel.zero_shot[0]],
                marker="o",
                markersize=9,
                markeredgecolor=canvas.INK,
                markerfacecolor="none",
                markeredgewidth=1.3,
                zorder=6,
            )
        label = f"≈ {panel.crossover[0]:.3g} a class"
        axis.annotate(
            label,
            (where if inside else right, panel.zero_shot[0]),
            xytext=(4, -11) if inside else (-4, -11),
            textcoords="offset points",
            ha="left" if inside and where < x[-1] - 1 else "right",
            fontsize=8,
        )
    axis.set_xlim(left, right)
    axis.set_xticks(places, names)
    plot.percent(axis)


def _bar(axis: Any, x: float, value: Value, *, color: str, marker: str) -> None:
    centre, low, high = value
    axis.errorbar(
        [x],
        [centre],
        yerr=[[centre - low], [high - centre]],
        color=color,
        marker=marker,
        markersize=5,
        capsize=2.5,
        elinewidth=1.1,
        linestyle="",
    )


def crossovers(rows: Sequence[Mapping[str, Any]], *, title: str) -> Image.Image:
    """Images of each class that a probe needs to be as good as zero-shot: the paper's figure 7.

    Args:
      rows: {"name", "value", "low", "high"}, images of each class; value None where the probe never
        gets there, "most" then says up to how many were tried. "high" may be infinite.
      title: what was measured.
    """
    known = sorted((r for r in rows if r["value"] is not None), key=lambda r: -r["value"])
    never = [row for row in rows if row["value"] is None]
    ordered = [*never, *known]
    size = (8.6, 0.34 * len(ordered) + 1.7)
    with plot.figure(size) as figure:
        axis = figure.subplots()
        figure.subplots_adjust(0.24, 0.62 / size[1], 0.93, 1 - 0.72 / size[1])
        figure.text(0.02, 1 - 0.16 / size[1], title, fontsize=13, fontweight="bold", va="top")
        plot.plain(axis, grid="x")
        axis.set_xscale("log")
        values = [row["value"] for row in known]
        most = max([*values, *(row["most"] for row in never), 16])
        least = min([*values, 1])
        axis.set_xlim(least / 1.6, most * 3)
        for y, row in enumerate(ordered):
            if row["value"] is None:
                axis.annotate(
                    "",
                    (most * 2.6, y),
                    (least / 1.6, y),
                    arrowprops={"arrowstyle": "-|>", "color": canvas.MUTED},
                )
                axis.text(
                    least / 1.4,
                    y + 0.1,
                    f"more than all {row['most']:,.0f}",
                    fontsize=8,
                    va="bottom",
                )
                continue
            axis.barh(
                y,
                row["value"] - least / 1.6,
                left=least / 1.6,
                height=0.6,
                color=canvas.SKY,
                zorder=2,
            )
            high = min(row["high"], most * 2.6)
            axis.plot([row["low"], high], [y, y], color=canvas.INK, linewidth=1.1, zorder=3)
            if row["high"] > high:
                axis.plot([high], [y], marker=">", color=canvas.INK, markersize=5, zorder=3)
            axis.text(
                row["value"], y + 0.33, f"{row['value']:.3g}", fontsize=8, va="bottom", ha="center"
            )
        if len(known) > 2 and not never:
            median = float(np.median(values))
            axis.axvline(median, color=canvas.ORANGE, linewidth=1.3)
            axis.text(
                median, len(ordered) - 0.35, f" median {median:.3g}", color=canvas.INK, fontsize=8
            )
        axis.set_ylim(-0.6, len(ordered) - 0.1)
        axis.set_yticks(range(len(ordered)), [row["name"] for row in ordered])
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_xlabel("labelled images of each class until the probe is as good as zero-shot")
        return plot.rendered(figure)
