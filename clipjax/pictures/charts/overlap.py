"""What the overlap of evaluation and training images did to the scores (paper, figure 17)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from clipjax.pictures import canvas, plot

SIGNIFICANT = 0.05  # of the one-sided test, before Bonferroni's correction
DETECTORS = {  # as `evals.overlap` names them
    "file": "the same file",
    "look": "looks the same",
    "embedding": "near in embedding",
    "any": "overlap",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One data set; shares.

    Attributes:
      name: its own.
      n: evaluation images.
      found: detector → images, see DETECTORS.
      difference: accuracy on Overlap less that on Clean, with its interval of 99.5 %.
      change: accuracy on All less that on Clean, likewise.
      p_value: of the one-sided test that Overlap is better.
    """

    name: str
    n: int
    found: Mapping[str, int]
    difference: tuple[float, float, float]
    change: tuple[float, float, float]
    p_value: float


def draw(rows: Sequence[Row], *, title: str) -> Image.Image:
    """Three panels: what each detector finds, how different the overlap is, what it did."""
    size = (13.2, max(0.52 * len(rows) + 2.6, 5.2))
    with plot.figure(size) as figure:
        axes = figure.subplots(1, 3, width_ratios=(1.15, 1, 1))
        figure.subplots_adjust(0.115, 0.72 / size[1], 0.985, 1 - 1.05 / size[1], wspace=0.24)
        figure.text(0.012, 1 - 0.16 / size[1], title, fontsize=14, fontweight="bold", va="top")
        _funnel(axes[0], rows)
        _scatter(
            axes[1],
            [(row, row.difference) for row in rows],
            title="accuracy: overlap less clean",
        )
        _scatter(
            axes[2],
            [(row, row.change) for row in rows],
            title="accuracy: all less clean",
        )
        axes[1].plot(
            [], [], **_mark(0.0), linestyle="", label=f"better, p < {SIGNIFICANT} (one-sided)"
        )
        axes[1].plot([], [], **_mark(1.0), linestyle="", label="not significantly better")
        axes[1].errorbar([], [], yerr=[], color=canvas.MUTED, label="99.5 % (Clopper and Pearson)")
        axes[1].legend(loc="best")
        return plot.rendered(figure)


def _funnel(axis: Any, rows: Sequence[Row]) -> None:
    axis.set_title("evaluation images that are in the training data", pad=8)
    plot.plain(axis, grid="x")
    shades = (canvas.SKY, canvas.BLUE, canvas.PURPLE, canvas.ORANGE)
    height = 0.8 / len(DETECTORS)
    top = max(
        [row.found.get(key, 0) / max(row.n, 1) for row in rows for key in DETECTORS], default=0
    )
    top = top or 0.01
    for k, (key, words) in enumerate(DETECTORS.items()):
        shares = [row.found.get(key, 0) / max(row.n, 1) for row in rows]
        y = np.arange(len(rows)) + (k - 1.5) * height
        axis.barh(y, shares, height=0.92 * height, color=shades[k], label=words)
        for at, row, share in zip(y, rows, shares, strict=True):
            label = f"{row.found.get(key, 0):,}" + (
                f" of {row.n:,}, {share:.1%}" if key == "any" else ""
            )
            axis.text(share + 0.012 * top, at, label, va="center", fontsize=7.5)
    axis.set_yticks(range(len(rows)), [row.name for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(0, 1.42 * top)
    plot.percent(axis, "x")
    axis.legend(loc="lower right")


def _scatter(
    axis: Any, points: Sequence[tuple[Row, tuple[float, float, float]]], *, title: str
) -> None:
    axis.set_title(title, pad=8)
    plot.plain(axis)
    axis.axhline(0, color=canvas.INK, linewidth=0.9)
    widest = max([row.found.get("any", 0) / max(row.n, 1) for row, _ in points], default=0)
    for row, (value, low, high) in points:
        x = row.found.get("any", 0) / max(row.n, 1)
        if not row.found.get("any", 0):
            continue
        axis.errorbar(
            [x],
            [value],
            yerr=[[value - low], [high - value]],
            color=canvas.MUTED,
            elinewidth=1.1,
            capsize=2.5,
        )
        axis.plot([x], [value], **_mark(row.p_value))
        beside = (-6, "right") if x > 0.6 * widest else (6, "left")
        axis.annotate(
            row.name,
            (x, value),
            xytext=(beside[0], 5),
            textcoords="offset points",
            fontsize=8,
            ha=beside[1],
        )
    axis.set_xlabel("share of the set that overlaps")
    axis.margins(x=0.18, y=0.12)
    axis.set_xlim(left=0)
    plot.percent(axis, "x")
    axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:+.3g}".replace("+0", "0"))
    axis.set_ylabel("points")


def _mark(p_value: float) -> dict[str, Any]:
    color = canvas.GREEN if p_value < SIGNIFICANT else canvas.PAPER
    return {
        "marker": "o",
        "markersize": 7,
        "color": color,
        "markeredgecolor": canvas.INK,
        "zorder": 4,
    }
