"""The latest measurements against what guessing would score: rows for the page and the terminal."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from clipjax.pictures.charts.curves import label
from clipjax.pictures.history import History

TRAINING = ("train/loss", "train/image_to_text_accuracy", "train/text_to_image_accuracy")


@dataclasses.dataclass(frozen=True)
class Row:
    """One metric: its last value, at which step, and what guessing scores (None: not known)."""

    name: str
    value: float
    step: int
    chance: float | None

    @property
    def label(self) -> str:
        return f"training {label(self.name)}" if self.name in TRAINING else label(self.name)

    @property
    def is_share(self) -> bool:
        """Whether it is a share of hits, shown in percent and better when larger."""
        return "accuracy" in self.name or "recall" in self.name

    def show(self, value: float | None) -> str:
        """A value of this metric as a text; "–" for None."""
        if value is None:
            return "–"
        if not self.is_share or not math.isfinite(value):
            return f"{value:.4g}"
        percent = 100 * value
        return f"{percent:.2f}%" if percent < 10 else f"{percent:.1f}%"

    @property
    def times(self) -> str:
        """How many times better than guessing: "× 84", or "" where that says nothing."""
        if not self.is_share or not self.chance or not math.isfinite(self.value):
            return ""
        return f"× {self.value / self.chance:.3g}"


def rows(history: History, *, chance: Mapping[str, float] | None = None) -> list[Row]:
    """A row for each evaluation's metrics, then for training's loss and accuracies."""
    names = [name for name in history if name.startswith("eval/")]
    names += [name for name in TRAINING if name in history]
    return [
        Row(name, values[-1], steps[-1], (chance or {}).get(name))
        for name in names
        for steps, values in [history[name]]
        if steps
    ]


def text(rows: Sequence[Row], *, notes: Sequence[str] = ()) -> str:
    """The table for a terminal, several lines, with notes below; "" without rows."""
    if not rows:
        return ""
    cells = [("", "now", "guessing", "", "step")]
    for row in rows:
        now, guess = row.show(row.value), row.show(row.chance)
        cells.append((row.label, now, guess, row.times, f"{row.step:,}"))
    return "\n".join([aligned(cells), *(f"note: {note}" for note in notes)])


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Lines of equal columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [[first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])] for first, *rest in cells]
    return "\n".join("  ".join(line).rstrip() for line in lines)
