"""A sheet of evaluation images beside their nearest training images, to choose a threshold by eye.

The paper's authors chose the threshold of each data set so (appendix C). Pairs are spread evenly
over the scores, so that the place where copies end can be seen.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from clipjax.pictures import canvas

PAIRS = 40
COLUMNS = 8
GAP = 18


def spread(scores: np.ndarray, *, count: int = PAIRS) -> np.ndarray:
    """Which pairs to show, highest score first: half of them the very highest, the others evenly
    spaced in score down to the lowest."""
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf, neginf=-np.inf), kind="stable")
    order = order[np.isfinite(scores[order])]
    if len(order) <= count:
        return order
    top = order[: count // 2]
    wanted = np.linspace(scores[top[-1]], scores[order[-1]], count - len(top) + 1)[1:]
    rest = [int(order[np.argmin(np.abs(scores[order] - score))]) for score in wanted]
    return np.array(list(dict.fromkeys([*map(int, top), *rest])))


def draw(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    scores: Sequence[float] | np.ndarray,
    notes: Sequence[str] | None = None,
    threshold: float | None = None,
    title: str,
    subtitle: str = "",
    attribution: str = "",
) -> Image.Image:
    """The sheet: above, an evaluation image; below it, its nearest training image.

    Args:
      pairs: uint8 [H, W, 3] twice.
      scores: of the pairs, highest first.
      notes: a short line under each pair, such as the detector that found it.
      threshold: pairs of at least this score have a green frame, the others none; None is not
        chosen yet.
      title, subtitle, attribution: lines above and below; "" leaves one out.
    """
    side = min(canvas.tile_side([image for pair in pairs for image in pair]), 128)
    columns = min(COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    step, cell = side + GAP, 2 * side + 62
    width = max(2 * canvas.MARGIN + columns * step - GAP, 640)
    inner = width - 2 * canvas.MARGIN
    heading = canvas.wrap(title, size=20, width=inner, lines=2, bold=True)
    below = canvas.wrap(subtitle, size=13, width=inner, lines=3) if subtitle else []
    footer = canvas.wrap(attribution, size=11, width=inner, lines=3) if attribution else []
    top = canvas.MARGIN + len(heading) * canvas.line_height(20) + len(below) * 18 + 14
    height = top + rows * cell + len(footer) * canvas.line_height(11) + canvas.MARGIN
    sheet = Image.new("RGB", (width, height), canvas.PAPER)
    pen = ImageDraw.Draw(sheet)
    y = canvas.write_lines(pen, (canvas.MARGIN, canvas.MARGIN - 6), heading, size=20, bold=True)
    canvas.write_lines(pen, (canvas.MARGIN, y + 2), below, size=13, color=canvas.MUTED)
    for k, pair in enumerate(pairs):
        x = canvas.MARGIN + (k % columns) * step
        y = top + (k // columns) * cell
        for part, image in enumerate(pair):
            sheet.paste(canvas.tile(image, side=side), (x, y + part * (side + 2)))
        inside = threshold is not None and scores[k] >= threshold
        frame = 4 if inside else 1
        color = canvas.GREEN if inside else canvas.HAIRLINE
        box = (x - frame, y - frame, x + side - 1 + frame, y + 2 * side + 1 + frame)
        pen.rectangle(box, outline=color, width=frame)
        texts = [f"{scores[k]:.3f}"]
        if notes:
            texts += canvas.wrap(notes[k], size=11, width=side, lines=1)
        at = (x, y + 2 * side + 8)
        canvas.write_lines(pen, at, texts[:1], size=13)
        canvas.write_lines(pen, (x, at[1] + 18), texts[1:], size=11, color=canvas.MUTED)
    canvas.write_lines(pen, (canvas.MARGIN, top + rows * cell), footer, size=11, color=canvas.MUTED)
    return sheet
