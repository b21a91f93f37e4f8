"""The curves of a run in six panels: loss, accuracy, evaluations, scale, rate, throughput."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from clipjax.pictures import canvas, plot
from clipjax.pictures.history import History, Series

SIZE = (13.2, 7.0)  # inches
MOST = 6  # curves in one panel
FEW = 25  # points that are marked one by one
DARK_ORANGE = "#8f6200"  # for text, which needs more contrast than an area


def draw(
    history: History,
    *,
    title: str,
    chance: Mapping[str, float] | None = None,
) -> Image.Image:
    """The picture, 1320 × 700 pixels.

    Args:
      history: as `history.read` gives it; a metric that is missing leaves its panel empty.
      title: the line above.
      chance: metric → what guessing scores; dotted lines.

    Raises:
      ImportError: matplotlib is not installed.
    """
    chance = chance or {}
    losses = [name for name in history if name.startswith("eval/") and name.endswith("/loss")]
    with plot.figure(SIZE) as figure:
        axes = figure.subplots(2, 3)
        figure.subplots_adjust(0.05, 0.07, 0.95, 0.87, wspace=0.26, hspace=0.36)
        figure.text(0.05, 0.975, title, fontsize=15, fontweight="bold", va="top")

        _panel(axes[0, 0], history, ["train/loss", *losses], title="loss", chance=chance)
        pairs = ["train/image_to_text_accuracy", "train/text_to_image_accuracy"]
        _panel(axes[0, 1], history, pairs, title="accuracy in the batch", chance=chance, share=True)
        scores = headline_metrics(history)
        _panel(axes[0, 2], history, scores, title="evaluations", chance=chance, share=True)
        _panel(axes[1, 0], history, ["train/logit_scale"], title="logit scale")
        _panel(axes[1, 1], history, ["train/learning_rate"], title="learning rate")
        axes[1, 1].set_ylim(bottom=0)
        axes[1, 1].yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
        speed = "perf/examples_per_second"
        _panel(axes[1, 2], history, [speed], title="examples per second")
        axes[1, 2].set_ylim(bottom=0)
        _data_wait(axes[1, 2], history.get("perf/data_wait_fraction"))
        last = max((steps[-1] for steps, _ in history.values() if steps), default=1)
        for axis in axes.flat:
            _steps_axis(axis, last=last)
        for axis in axes[1]:
            offset = {"xy": (1, 0), "xytext": (0, -26), "xycoords": "axes fraction"}
            axis.annotate(
                "step", **offset, textcoords="offset points", ha="right", color=canvas.MUTED
            )
        return plot.rendered(figure)


def headline_metrics(history: History) -> list[str]:
    """The evaluations worth a curve: recall at 1 both ways, and top-1 accuracy."""
    ends = ("_recall_at_1", "/top1_accuracy")
    return [name for name in history if name.startswith("eval/") and name.endswith(ends)][:MOST]


def label(name: str) -> str:
    """ "held_out: text to image recall at 1" for a metric's name."""
    parts = name.split("/")
    words = parts[-1].replace("_", " ").replace("top1", "top-1").replace("top5", "top-5")
    if parts[0] == "eval":
        return f"{'/'.join(parts[1:-1])}: {words}"
    return words


def _panel(
    axis: Any,
    history: History,
    names: Sequence[str],
    *,
    title: str,
    chance: Mapping[str, float] | None = None,
    share: bool = False,
) -> None:
    axis.set_title(title, pad=8, y=1.0)  # a given y saves measuring all texts around
    axis.grid(True, color=canvas.HAIRLINE, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(length=0)
    names = [name for name in names if name in history and history[name][0]][:MOST]
    colors = dict(zip(names, canvas.SERIES, strict=False))
    chances: dict[float, str] = {}
    for name in names:
        _line(axis, history[name], color=colors[name], label=label(name))
        guess = (chance or {}).get(name)
        if guess is not None and not any(math.isclose(guess, known) for known in chances):
            chances[guess] = name
    alone = len(chances) == 1  # then the line belongs to all curves and takes no curve's colour
    for guess, name in chances.items():
        color = canvas.MUTED if alone else colors[name]
        axis.axhline(guess, color=color, linestyle=":", linewidth=1.3)
    if chances:
        axis.plot([], [], color=canvas.MUTED, linestyle=":", linewidth=1.3, label="guessing")
    if not names:
        axis.text(
            0.5, 0.5, "no values yet", transform=axis.transAxes, ha="center", color=canvas.MUTED
        )
        axis.set_yticks([])
    elif share:
        plot.percent(axis)
        top = axis.dataLim.y1
        axis.set_ylim(0, min(max(top * 1.15, 0.01), 1.03) if math.isfinite(top) else 1.03)
    if len(names) > 1 or chances:
        axis.legend(loc="best", handlelength=1.6, labelspacing=0.3, borderaxespad=0.2)


def _line(axis: Any, series: Series, *, color: str, label: str) -> None:
    """One curve; where it is not finite it is broken, and marked at the panel's lower edge."""
    steps, values = np.array(series[0]), np.array(series[1])
    finite = np.isfinite(values)
    marker = "o" if finite.sum() <= FEW else ""
    shown = np.where(finite, values, np.nan)
    axis.plot(steps, shown, color=color, linewidth=1.5, marker=marker, markersize=3.5, label=label)
    if not finite.all():
        axis.plot(
            steps[~finite],
            np.zeros((~finite).sum()),
            transform=axis.get_xaxis_transform(),
            color=canvas.RED,
            marker="x",
            markersize=7,
            markeredgewidth=1.8,
            linestyle="",
            clip_on=False,
            label="not finite",
        )


def _data_wait(axis: Any, series: Series | None) -> None:
    """The share of time that steps waited for data, on a second scale at the right."""
    if not series or not series[0]:
        return
    twin = axis.twinx()
    steps, values = np.array(series[0]), np.nan_to_num(np.array(series[1]), posinf=0, neginf=0)
    twin.plot(steps, values, color=canvas.ORANGE, linewidth=1)
    twin.fill_between(steps, values, color=canvas.ORANGE, alpha=0.25, linewidth=0)
    twin.set_ylim(0, 1)
    twin.set_yticks([0.5, 1])
    plot.percent(twin)
    twin.tick_params(length=0, colors=DARK_ORANGE)
    twin.spines[:].set_visible(False)
    twin.set_title(
        "waiting for data",
        loc="right",
        fontsize=9,
        color=DARK_ORANGE,
        pad=8,
        y=1.0,
        fontweight="normal",
    )


def _steps_axis(axis: Any, *, last: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_xlim(0, last * 1.02)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    short = short_number if last >= 10_000 else "{:,.0f}".format
    axis.xaxis.set_major_formatter(lambda value, _: short(value))


def short_number(value: float) -> str:
    """ "1.5k" for 1500, "2M" for 2,000,000."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"
