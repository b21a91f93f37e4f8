"""Charts of a suite's results, a row for each set; `evals.suites.report` draws them.

Rows are plain: {"name", "value", "low", "high"} with shares, and what each chart needs besides.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from clipjax.pictures import canvas, plot

Row = Mapping[str, Any]
MARKS = (("D", canvas.ORANGE), ("o", canvas.GREEN), ("s", canvas.PURPLE))  # of published sources
WIDTH = 11.0  # inches
LONGEST = 30  # characters of a set's name


def bars(rows: Sequence[Row], *, title: str, published: str = "") -> Image.Image:
    """A bar for each set with its interval; what others published as marks, guessing as a line.

    Args:
      rows: best first; "published": {source: share}, "chance": share or None.
      title: what was measured.
      published: whose numbers the marks are, "ViT-B/32".
    """
    with plot.figure((WIDTH, _height(rows))) as figure:
        axis = _rows_axis(figure, rows, title=title)
        y = np.arange(len(rows))
        values = np.array([row["value"] for row in rows], float)
        low, high = (np.array([row[key] for row in rows], float) for key in ("low", "high"))
        axis.barh(y, values, height=0.62, color=canvas.SKY, label="ours", zorder=2)
        axis.errorbar(
            values,
            y,
            xerr=[values - low, high - values],
            fmt="none",
            ecolor=canvas.INK,
            elinewidth=1.1,
            capsize=2.5,
            zorder=4,
            label="95 % interval",
        )
        for source, (marker, color) in zip(_sources(rows), MARKS, strict=False):
            known = [i for i, row in enumerate(rows) if source in row.get("published", {})]
            shares = [rows[i]["published"][source] for i in known]
            axis.scatter(
                *(shares, known),
                marker=marker,
                s=34,
                color=color,
                edgecolor=canvas.PAPER,
                linewidth=0.7,
                zorder=5,
                label=f"{published}, {source}" if published else source,
            )
        _chance(axis, rows)
        ends = [max([high[i], *r.get("published", {}).values()]) for i, r in enumerate(rows)]
        guesses = [row["chance"] for row in rows if row.get("chance") is not None]
        span = min(max(max(*ends, *guesses, 0.0) * 1.12, 0.01), 1.08)
        for i, end in enumerate(ends):
            figure_text = f"{100 * values[i]:.1f}"
            axis.text(end + 0.008 * span, i, figure_text, va="center", fontsize=8)
        axis.set_xlim(0, span)
        plot.percent(axis, "x")
        axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=5, fontsize=8, borderpad=0.1)
        return plot.rendered(figure)


def gains(rows: Sequence[Row], *, title: str, xlabel: str) -> Image.Image:
    """Differences in points, such as what many prompts gain over one (the paper's figure 4).

    Args:
      rows: "value" is the difference of shares.
      title: what was measured.
      xlabel: what the difference is of.
    """
    rows = sorted(rows, key=lambda row: -row["value"])
    with plot.figure((WIDTH, _height(rows))) as figure:
        axis = _rows_axis(figure, rows, title=title)
        values = 100 * np.array([row["value"] for row in rows], float)
        colors = [canvas.GREEN if value >= 0 else canvas.RED for value in values]
        axis.barh(np.arange(len(rows)), values, height=0.62, color=colors, zorder=2)
        axis.axvline(0, color=canvas.INK, linewidth=0.9)
        reach = max(float(np.abs(values).max()), 0.1)
        for i, value in enumerate(values):
            beside = value + np.copysign(0.02 * reach, value)
            side = "left" if value >= 0 else "right"
            axis.text(beside, i, f"{value:+.1f}", va="center", ha=side, fontsize=8)
        axis.set_xlim(min(values.min() - 0.16 * reach, 0), max(values.max() + 0.16 * reach, 0))
        axis.set_xlabel(xlabel)
        return plot.rendered(figure)


def scatter(
    rows: Sequence[Row], *, title: str, xlabel: str, ylabel: str, fit: bool = False
) -> Image.Image:
    """A point for each set, with y = x; such as ours against published.

    Args:
      rows: {"name", "x", "y"}, shares, perhaps with "low" and "high" of y.
      title, xlabel, ylabel: what is shown.
      fit: also tell the correlation.
    """
    with plot.figure((7.4, 7.0)) as figure:
        axis = figure.subplots()
        figure.subplots_adjust(0.1, 0.09, 0.97, 0.9)
        plot.plain(axis)
        x, y = (np.array([row[key] for row in rows], float) for key in ("x", "y"))
        axis.plot([0, 1], [0, 1], color=canvas.MUTED, linestyle=":", linewidth=1.2, label="y = x")
        if all("low" in row for row in rows):
            low, high = (np.array([row[key] for row in rows], float) for key in ("low", "high"))
            errors = [y - low, high - y]
            axis.errorbar(x, y, yerr=errors, fmt="none", ecolor=canvas.HAIRLINE, zorder=2)
        axis.scatter(x, y, s=30, color=canvas.BLUE, zorder=3)
        for row in rows:
            axis.annotate(
                _short(row["name"]),
                (row["x"], row["y"]),
                xytext=(5, 3),
                textcoords="offset points",
                fontsize=7,
                color=canvas.MUTED,
            )
        axis.set_xlim(0, 1.03)
        axis.set_ylim(0, 1.03)
        plot.percent(axis)
        plot.percent(axis, "x")
        axis.set_xlabel(xlabel)
        axis.set_ylabel(ylabel)
        if fit and len(rows) > 2 and x.std() > 0 and y.std() > 0:
            axis.plot([], [], " ", label=f"r = {np.corrcoef(x, y)[0, 1]:.2f}")
        axis.legend(loc="upper left", fontsize=8)
        figure.text(0.1, 0.975, title, fontsize=13, fontweight="bold", va="top")
        return plot.rendered(figure)


def scaling(lines: Mapping[str, Sequence[tuple[float, Row]]], *, title: str) -> Image.Image:
    """Accuracy against examples seen, a line for each set.

    Args:
      lines: set's name → (examples seen, row) in order.
      title: what was measured.
    """
    with plot.figure((9.6, 5.6)) as figure:
        axis = figure.subplots()
        figure.subplots_adjust(0.08, 0.11, 0.78, 0.88)
        plot.plain(axis)
        for number, (name, points) in enumerate(lines.items()):
            color = canvas.SERIES[number % len(canvas.SERIES)]
            style = ("-", "--", ":")[number // len(canvas.SERIES) % 3]
            x = [seen for seen, _ in points]
            rows = [row for _, row in points]
            axis.plot(
                *(x, [row["value"] for row in rows]),
                color=color,
                linestyle=style,
                marker="o",
                markersize=3.5,
                label=_short(name),
            )
            axis.fill_between(
                *(x, [row["low"] for row in rows], [row["high"] for row in rows]),
                color=color,
                alpha=0.12,
                linewidth=0,
            )
        seen = [point for points in lines.values() for point, _ in points]
        if min(seen) > 0 and max(seen) / min(seen) > 8:
            axis.set_xscale("log")
        axis.set_xlabel("examples seen")
        plot.percent(axis)
        axis.set_ylim(bottom=0)
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8)
        figure.text(0.08, 0.97, title, fontsize=13, fontweight="bold", va="top")
        return plot.rendered(figure)


def _height(rows: Sequence[Row]) -> float:
    return 1.25 + 0.29 * max(len(rows), 3)


def _rows_axis(figure: Any, rows: Sequence[Row], *, title: str) -> Any:
    axis = figure.subplots()
    height = _height(rows)
    figure.subplots_adjust(0.22, 0.55 / height, 0.97, 1 - 0.5 / height)
    plot.plain(axis, grid="x")
    axis.set_yticks(np.arange(len(rows)), [_short(row["name"]) for row in rows])
    axis.tick_params(axis="y", colors=canvas.INK)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    figure.text(0.02, 1 - 0.1 / height, title, fontsize=13, fontweight="bold", va="top")
    return axis


def _chance(axis: Any, rows: Sequence[Row]) -> None:
    """An upright mark in each bar where guessing is."""
    known = [i for i, row in enumerate(rows) if row.get("chance") is not None]
    shares = [rows[i]["chance"] for i in known]
    if known:
        axis.scatter(
            *(shares, known),
            marker="|",
            s=130,
            color=canvas.RED,
            linewidth=1.6,
            zorder=5,
            label="guessing",
        )


def _sources(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(source for row in rows for source in row.get("published", {})))


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + canvas.ELLIPSIS
