"""One metric of several runs by the images they have seen, as the paper's Figure 2 draws it."""

from collections.abc import Mapping

from PIL import Image

from clipjax.pictures import canvas, plot
from clipjax.pictures.charts import curves
from clipjax.pictures.history import History, Series

SIZE = (7.6, 4.6)  # inches


def by_examples(history: History, metric: str) -> Series:
    """(examples seen, values) of a metric; both empty where the run has not got it."""
    seen = dict(zip(*history.get("examples_seen", ([], [])), strict=True))
    steps, values = history.get(metric, ([], []))
    pairs = [(int(seen[s]), v) for s, v in zip(steps, values, strict=True) if s in seen]
    return [x for x, _ in pairs], [y for _, y in pairs]


def examples_until(series: Series, value: float) -> float | None:
    """Examples after which a rising curve first reaches a value, between points by a straight
    line; None if it never does."""
    before = (0, 0.0)
    for point in zip(*series, strict=True):
        if point[1] >= value:
            rise = point[1] - before[1]
            share = (value - before[1]) / rise if rise > 0 else 1.0
            return before[0] + share * (point[0] - before[0])
        before = point
    return None


def draw(runs: Mapping[str, Series], *, metric: str) -> Image.Image:
    """The picture, 760 × 460 pixels, of curves by name; each named at its end.

    Raises ImportError where matplotlib is not installed.
    """
    with plot.figure(SIZE) as figure:
        axis = figure.subplots()
        figure.subplots_adjust(0.09, 0.12, 0.78, 0.9)
        axis.set_title(curves.label(metric), pad=8, y=1.0)
        plot.plain(axis)
        colors = [canvas.SERIES[i % len(canvas.SERIES)] for i in range(len(runs))]
        for (examples, values), color in zip(runs.values(), colors, strict=True):
            axis.plot(examples, values, color=color, linewidth=1.6, marker="o", markersize=3.5)
        for (name, y), color in zip(_apart(runs).items(), colors, strict=True):
            offset = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            axis.annotate(name, (1, y), (8, 0), **offset, color=color, va="center")
        axis.set_xlabel("images seen")
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_formatter(lambda value, _: curves.short_number(value))
        if metric.endswith(("accuracy", "_1", "_5", "_10")):
            plot.percent(axis)
        return plot.rendered(figure)


def _apart(runs: Mapping[str, Series]) -> dict[str, float]:
    """Heights for the curves' names, in their order, none nearer than a line of text."""
    ends = {name: values[-1] for name, (_, values) in runs.items()}
    line = 0.05 * max(max(values) for _, values in runs.values())
    heights, last = {}, float("-inf")
    for name, end in sorted(ends.items(), key=lambda item: item[1]):
        heights[name] = last = max(end, last + line)
    return {name: heights[name] for name in runs}
