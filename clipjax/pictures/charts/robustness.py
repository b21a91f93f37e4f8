"""Accuracy under distribution shift against accuracy without it, on logit axes (figures 13 to 15).

Models trained on the first data alone lie on a line; what is above it is effective robustness.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from clipjax.pictures import canvas, plot

Value = tuple[float, float, float]
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
COLUMNS = 4
EDGE = 0.003
MARKS = (("D", canvas.GREEN), ("s", canvas.PURPLE), ("^", canvas.SKY), ("v", canvas.RED))


@dataclasses.dataclass(frozen=True)
class Panel:
    """One shift. Accuracies are shares, (before, after).

    Attributes:
      title: the shift.
      xlabel, ylabel: the data before and after.
      standard: model → accuracies, of those that make the line.
      line: (before, after, low, high), arrays, of the line and its band; None leaves it out.
      others: group → model → accuracies, published or ours.
      ours: name → (before, after), each with low and high.
    """

    title: str
    xlabel: str
    ylabel: str
    standard: Mapping[str, tuple[float, float]]
    line: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None = None
    others: Mapping[str, Mapping[str, tuple[float, float]]] = dataclasses.field(
        default_factory=dict
    )
    ours: Mapping[str, tuple[Value, Value]] = dataclasses.field(default_factory=dict)


def draw(panels: Sequence[Panel], *, title: str, standard: str) -> Image.Image:
    """A panel for each shift.

    Args:
      panels: at least one.
      title: of the picture.
      standard: what the models of the line are.
    """
    columns = min(len(panels), COLUMNS)
    rows = math.ceil(len(panels) / columns)
    size = (3.9 * columns + 0.6 if columns > 1 else 6.6, 3.7 * rows + 1.3 if columns > 1 else 6.4)
    with plot.figure(size) as figure:
        axes = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(
            0.7 / size[0],
            0.95 / size[1],
            1 - 0.25 / size[0],
            1 - 0.95 / size[1],
            wspace=0.3,
            hspace=0.45,
        )
        figure.text(
            0.2 / size[0], 1 - 0.15 / size[1], title, fontsize=13, fontweight="bold", va="top"
        )
        for axis, panel in zip(axes.flat, panels, strict=False):
            _panel(axis, panel, standard=standard, name=len(panels) == 1)
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_visible(False)
        seen: dict[str, Any] = {}
        for axis in axes.flat:
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                seen.setdefault(label, handle)
        figure.legend(
            seen.values(),
            seen.keys(),
            loc="lower center",
            ncols=min(len(seen), 2 * columns + 1),
            frameon=False,
            fontsize=8.5,
        )
        return plot.rendered(figure)


def _panel(axis: Any, panel: Panel, *, standard: str, name: bool) -> None:
    axis.set_title(panel.title, pad=7)
    plot.plain(axis)
    xs, ys = _extent(panel)
    both = np.array([min(xs[0], ys[0]), max(xs[1], ys[1])])
    axis.plot(
        _logit(both), _logit(both), color=canvas.MUTED, linestyle=":", linewidth=1.1, label="y = x"
    )
    if panel.line is not None:
        before, after, low, high = map(_logit, panel.line)
        axis.fill_between(before, low, high, color=canvas.BLUE, alpha=0.14, linewidth=0)
        axis.plot(before, after, color=canvas.BLUE, linewidth=1.3, label="their line, 95 % band")
    _scatter(axis, panel.standard, marker="o", color=canvas.BLUE, label=standard, names=False)
    for (group, models), (marker, color) in zip(panel.others.items(), MARKS, strict=False):
        _scatter(axis, models, marker=marker, color=color, label=group, names=name)
    for k, (label, (before, after)) in enumerate(panel.ours.items()):
        x, y = _logit(np.array(before)), _logit(np.array(after))
        color = (canvas.ORANGE, canvas.RED, canvas.GREEN)[k % 3]
        axis.errorbar(
            [x[0]],
            [y[0]],
            xerr=[[x[0] - x[1]], [x[2] - x[0]]],
            yerr=[[y[0] - y[1]], [y[2] - y[0]]],
            color=color,
            marker="*",
            markersize=13,
            markeredgecolor=canvas.INK,
            markeredgewidth=0.6,
            elinewidth=1.1,
            linestyle="",
            label=label,
            zorder=6,
        )
        if panel.line is not None:
            expected = np.interp(x[0], _logit(panel.line[0]), _logit(panel.line[1]))
            axis.annotate(
                "",
                (x[0], y[0]),
                (x[0], expected),
                arrowprops={"arrowstyle": "->", "color": color, "linewidth": 1.2},
                zorder=5,
            )
            gain = 100 * (after[0] - _share(expected))
            axis.annotate(
                f"{gain:+.1f}",
                (x[0], (y[0] + expected) / 2),
                xytext=(5, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
            )
    for which, (low, high) in (("x", xs), ("y", ys)):
        ends = _logit(np.array([low, high]))
        margin = 0.06 * (ends[1] - ends[0])
        shown = [t for t in TICKS if ends[0] - margin <= _logit(t) <= ends[1] + margin]
        shown = shown if len(shown) <= 7 else shown[:: math.ceil(len(shown) / 7)]
        getattr(axis, f"set_{which}ticks")(
            [_logit(t) for t in shown], [f"{100 * t:g}%" for t in shown]
        )
        getattr(axis, f"set_{which}lim")(ends[0] - margin, ends[1] + margin)
    axis.set_xlabel(panel.xlabel)
    axis.set_ylabel(panel.ylabel)


def _scatter(
    axis: Any,
    models: Mapping[str, tuple[float, float]],
    *,
    marker: str,
    color: str,
    label: str,
    names: bool,
) -> None:
    if not models:
        return
    x, y = _logit(np.array(list(models.values()))).T
    axis.scatter(
        x,
        y,
        marker=marker,
        s=30,
        color=color,
        edgecolor=canvas.PAPER,
        linewidth=0.6,
        label=label,
        zorder=4,
    )
    for model, at in zip(models, zip(x, y, strict=True), strict=True) if names else ():
        axis.annotate(
            model, at, xytext=(6, -3), textcoords="offset points", fontsize=7.5, color=canvas.MUTED
        )


def _extent(panel: Panel) -> tuple[tuple[float, float], tuple[float, float]]:
    points = [
        *panel.standard.values(),
        *(p for group in panel.others.values() for p in group.values()),
    ]
    x = [p[0] for p in points] + [v for before, _ in panel.ours.values() for v in before]
    y = [p[1] for p in points] + [v for _, after in panel.ours.values() for v in after]
    return (max(min(x), EDGE), min(max(x), 1 - EDGE)), (max(min(y), EDGE), min(max(y), 1 - EDGE))


def _logit(share: Any) -> Any:
    inside = np.clip(share, EDGE, 1 - EDGE)
    return np.log(inside / (1 - inside))


def _share(logit: Any) -> Any:
    return 1 / (1 + np.exp(-logit))
