"""Which classes a zero-shot classifier takes for which: shares, a row for each true class."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from clipjax.pictures import canvas

MOST = 40  # classes shown; with more, those most often taken for one another
NUMBERS = 12  # classes up to which each cell has its number
NAME_WIDTH = 170  # pixels; longer names are cut
SHADES = ((0.0, 246, 249, 252), (0.5, 107, 174, 214), (1.0, 8, 48, 107))  # share, R, G, B


def draw(
    counts: np.ndarray, *, names: Sequence[str], title: str, attribution: str = ""
) -> Image.Image:
    """The picture.

    Args:
      counts: int [C, C], images of the true class (row) that were given the class (column).
      names: C display names; they need not be unique.
      title: what was measured; accuracy and chance are added.
      attribution: a line below; "" leaves it out.
    """
    counts = np.asarray(counts)
    images, classes, hits = int(counts.sum()), len(counts), int(np.trace(counts))
    chosen = most_confused(counts, most=MOST)
    shown = shares(counts, chosen=chosen)
    few = len(chosen) <= NUMBERS
    cell, size = (46, 13) if few else (24, 12)
    across = [canvas.wrap(str(names[i]), size=size, width=NAME_WIDTH, lines=1)[0] for i in chosen]
    down = list(across)
    caption = [
        f"accuracy {hits / max(images, 1):.1%} ({hits:,} of {images:,}); guessing among"
        f" {classes:,} classes: {1 / classes:.2%}"
    ]
    if len(chosen) < classes:
        across.append("all others")
        caption.append(f"shown: the {len(chosen)} classes most often taken for one another")

    longest = round(max(canvas.font(size).getlength(name) for name in across))
    wide, high = cell * shown.shape[1], cell * shown.shape[0]
    left = canvas.MARGIN + 26 + longest + 8
    width = max(left + wide + 90 + canvas.MARGIN, 660)
    inner = width - 2 * canvas.MARGIN
    heading = canvas.wrap(title, size=20, width=inner, lines=2, bold=True)
    footer = canvas.wrap(attribution, size=11, width=inner, lines=3) if attribution else []
    top = canvas.MARGIN + len(heading) * canvas.line_height(20) + len(caption) * 18 + 16
    below = top + high + longest + 44
    height = below + len(footer) * canvas.line_height(11) + canvas.MARGIN - 8

    sheet = Image.new("RGB", (width, height), canvas.PAPER)
    pen = ImageDraw.Draw(sheet)
    y = canvas.write_lines(pen, (canvas.MARGIN, canvas.MARGIN - 6), heading, size=20, bold=True)
    canvas.write_lines(pen, (canvas.MARGIN, y + 2), caption, size=13, color=canvas.MUTED)
    colors = Image.fromarray(_shade(shown))
    sheet.paste(colors.resize((wide, high), Image.Resampling.NEAREST), (left, top))
    pen.rectangle((left - 1, top - 1, left + wide, top + high), outline=canvas.HAIRLINE)
    typeface = canvas.font(size)
    for k, name in enumerate(down):
        at = left - 8, top + k * cell + cell // 2
        pen.text(at, name, fill=canvas.INK, font=typeface, anchor="rm")
    for k, name in enumerate(across):
        at = left + k * cell + cell // 2, top + high + 8
        _upright(sheet, at, name, size=size, color=canvas.INK)
    if few:
        for row, column in np.argwhere(shown >= 0.005):
            at = left + column * cell + cell // 2, top + row * cell + cell // 2
            color = canvas.PAPER if shown[row, column] > 0.55 else canvas.INK
            text = f"{100 * shown[row, column]:.0f}"
            pen.text(at, text, fill=color, font=canvas.font(13), anchor="mm")
    at = left + wide // 2, below - 22
    pen.text(at, "taken for", fill=canvas.MUTED, font=canvas.font(13), anchor="mm")
    half = round(canvas.font(13).getlength("true class")) // 2
    at = canvas.MARGIN + 8, top + high // 2 - half
    _upright(sheet, at, "true class", size=13, color=canvas.MUTED)
    _scale(sheet, pen, (left + wide + 24, top), height=high)
    canvas.write_lines(pen, (canvas.MARGIN, below), footer, size=11, color=canvas.MUTED)
    return sheet


def shares(counts: np.ndarray, *, chosen: np.ndarray) -> np.ndarray:
    """Shares of each chosen true class, float [K, K], or [K, K + 1] with all others."""
    rows = counts[chosen] / np.maximum(counts[chosen].sum(axis=1, keepdims=True), 1)
    inside = rows[:, chosen]
    if len(chosen) == len(counts):
        return inside
    rest = np.setdiff1d(np.arange(len(counts)), chosen)
    return np.concatenate([inside, rows[:, rest].sum(axis=1, keepdims=True)], axis=1)


def _shade(shares: np.ndarray) -> np.ndarray:
    """uint8 [..., 3], from nearly white to dark blue."""
    at, *channels = zip(*SHADES, strict=True)
    return np.stack([np.interp(shares, at, c) for c in channels], axis=-1).astype(np.uint8)


def _upright(sheet: Image.Image, at: tuple[int, int], text: str, *, size: int, color: str) -> None:
    """Write upwards, ending at `at`: the middle of the line across, its last letter on top."""
    typeface = canvas.font(size)
    wide, high = round(typeface.getlength(text)) + 2, canvas.line_height(size)
    line = Image.new("L", (wide, high), 0)
    ImageDraw.Draw(line).text((wide - 1, high // 2), text, fill=255, font=typeface, anchor="rm")
    mask = line.transpose(Image.Transpose.ROTATE_90)
    sheet.paste(color, (at[0] - high // 2, at[1]), mask)


def _scale(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, at: tuple[int, int], *, height: int
) -> None:
    """The meaning of the colours, from 100 % at the top to 0."""
    x, y = at
    column = Image.fromarray(_shade(np.linspace(1, 0, height)[:, None]))
    sheet.paste(column.resize((14, height)), at)
    for share in (1.0, 0.5, 0.0):
        position = x + 20, y + round((1 - share) * (height - 1))
        anchor = {1.0: "lt", 0.5: "lm", 0.0: "lb"}[share]
        text = f"{share:.0%}"
        pen.text(position, text, fill=canvas.MUTED, font=canvas.font(12), anchor=anchor)


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
