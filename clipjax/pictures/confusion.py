"""Which classes a zero-shot classifier takes for which: a matrix of shares, a row per true class."""

import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image

from clipjax.pictures import canvas
from clipjax.pictures.curves import STYLE, rendered

MOST = 40  # classes shown; with more, those most often taken for one another
NUMBERS = 12  # classes up to which each cell has its number


def draw(
    counts: np.ndarray, *, names: Sequence[str], title: str, attribution: str = ""
) -> Image.Image:
    """The picture.

    Args:
      counts: int [C, C], images of the true class (row) that were given the class (column).
      names: C display names; they need not be unique.
      title: what was measured; accuracy and chance are added.
      attribution: a line below; "" leaves it out.

    Raises:
      ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    counts = np.asarray(counts)
    images, classes = int(counts.sum()), len(counts)
    hits = int(np.trace(counts))
    chosen = most_confused(counts, most=MOST)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    columns = [shares[chosen][:, chosen]]
    across = [canvas.wrap(names[i], size=10, width=110, lines=1)[0] for i in chosen]
    down = list(across)
    if len(chosen) < classes:
        rest = np.setdiff1d(np.arange(classes), chosen)
        columns.append(shares[chosen][:, rest].sum(axis=1, keepdims=True))
        across.append("all others")
    shown = np.concatenate(columns, axis=1)

    cell = 0.46 if len(chosen) <= NUMBERS else 0.24  # inches
    matrix = max(cell * shown.shape[1], 3.6), max(cell * shown.shape[0], 3.6)
    left, right, bottom, top = 1.5, 1.1, 1.75, 1.0
    width, height = left + matrix[0] + right, bottom + matrix[1] + top
    with warnings.catch_warnings(), mpl.rc_context(STYLE):
        warnings.simplefilter("ignore")  # of letters that the font lacks
        figure = Figure(figsize=(width, height), dpi=100, facecolor=canvas.PAPER)
        place = (left / width, bottom / height, matrix[0] / width, matrix[1] / height)
        axis = figure.add_axes(place)
        drawn = axis.imshow(shown, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        size = 8 if len(chosen) > NUMBERS else 9
        axis.set_xticks(range(len(across)), across, rotation=90, fontsize=size)
        axis.set_yticks(range(len(down)), down, fontsize=size)
        axis.tick_params(length=0)
        axis.set_xlabel("taken for", labelpad=6)
        axis.set_ylabel("true class", labelpad=6)
        if len(chosen) <= NUMBERS:
            for row, column in np.argwhere(shown > 0):
                share = shown[row, column]
                color = canvas.PAPER if share > 0.6 else canvas.INK
                text = f"{100 * share:.0f}"
                axis.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
        bar = figure.add_axes(((left + matrix[0] + 0.2) / width, place[1], 0.14 / width, place[3]))
        figure.colorbar(drawn, cax=bar, format=lambda value, _: f"{100 * value:.0f} %")
        bar.tick_params(length=0)
        bar.spines[:].set_visible(False)
        figure.text(0.2 / width, 1 - 0.2 / height, title, fontsize=13, fontweight="bold", va="top")
        told = (
            f"accuracy {hits / max(images, 1):.1%} ({hits:,} of {images:,});"
            f" guessing among {classes:,} classes {1 / classes:.2%}"
        )
        if len(chosen) < classes:
            told += f"\nshown: the {len(chosen)} classes most often confused"
        figure.text(0.2 / width, 1 - 0.5 / height, told, color=canvas.MUTED, va="top")
        lines = canvas.wrap(attribution, size=10, width=round(width * 100) - 40, lines=3)
        figure.text(0.2 / width, 0.1 / height, "\n".join(lines), fontsize=7, color=canvas.MUTED)
        return rendered(figure)


def most_confused(counts: np.ndarray, *, most: int) -> np.ndarray:
    """Indices, ascending, of all classes or of the `most` with the most mistaken pairs.

    Pairs of classes are taken by their number of mistakes, both ways counted together, until as
    many classes are in; if there are too few mistakes, the first classes fill up.
    """
    classes = len(counts)
    if classes <= most:
        return np.arange(classes)
    mistakes = np.triu(counts + counts.T, 1)
    order = np.argsort(-mistakes, axis=None, kind="stable")[: most * most]
    chosen: dict[int, None] = {}
    for pair in order[mistakes.flat[order] > 0]:
        for one in divmod(int(pair), classes):
            if len(chosen) < most:
                chosen[one] = None
    for one in range(classes):
        if len(chosen) < most:
            chosen[one] = None
    return np.array(sorted(chosen))
