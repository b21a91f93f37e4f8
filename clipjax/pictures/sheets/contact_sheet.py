"""A sheet of text queries with the images that a model finds for them, best first.

With a truth, as in evaluations, right images have a green frame and a tick and wrong ones a red
frame and a cross; without, as for a query over someone's own images, only ranks and scores.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from clipjax.pictures import canvas

QUERY_WIDTH = 250
QUERY_SIZE = 16
QUERY_LINES = 7
NOTE_SIZE = 12
NAME_SIZE = 11
GAP = 16
FRAME = {True: 5, False: 2}  # pixels; a right image must stand out among the wrong ones
BADGE = 26


def best(
    query_embed: np.ndarray, image_embed: np.ndarray, *, count: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """The images that score highest: (index int [Q, K], cosine float32 [Q, K]), best first.

    Args:
      query_embed: float32 [Q, E], L2-normalised.
      image_embed: float32 [N, E], L2-normalised.
      count: K, or N where there are fewer images.
    """
    scores = np.asarray(query_embed, np.float32) @ np.asarray(image_embed, np.float32).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(scores, order, axis=1)


def draw(
    queries: Sequence[str],
    *,
    images: Sequence[Sequence[np.ndarray]],
    scores: Sequence[Sequence[float]] | np.ndarray,
    right: Sequence[Sequence[bool]] | np.ndarray | None = None,
    notes: Sequence[str] | None = None,
    names: Sequence[Sequence[str]] | None = None,
    legend: tuple[str, str] = ("the query's own image", "another image"),
    title: str,
    subtitle: str = "",
    attribution: str = "",
) -> Image.Image:
    """The sheet, a row for each of the Q queries and a column for each of K ranks.

    Args:
      queries: texts.
      images: for each query its best images, uint8 [H, W, 3], best first.
      scores: [Q, K], cosines.
      right: bool [Q, K], whether the image is one that the query describes; None where no one
        knows.
      notes: a short line under each query, such as the rank of the right image.
      names: [Q, K], shown under the images, such as file names; of a long one the end is kept.
      legend: what the green and the red mark mean.
      title, subtitle, attribution: lines above and below; "" leaves one out.
    """
    side = canvas.tile_side([image for row in images for image in row])
    columns = max(len(row) for row in images)
    wrapped = [
        canvas.wrap(query, size=QUERY_SIZE, width=QUERY_WIDTH - 24, lines=QUERY_LINES)
        for query in queries
    ]
    noted = [
        canvas.wrap(note, size=NOTE_SIZE, width=QUERY_WIDTH - 24, lines=2) if note else []
        for note in notes or [""] * len(queries)
    ]
    step = side + GAP
    row_height = side + (42 if names is None else 60)
    width = 2 * canvas.MARGIN + QUERY_WIDTH + columns * step - GAP
    inner = width - 2 * canvas.MARGIN
    heading = canvas.wrap(title, size=20, width=inner, lines=2, bold=True)
    below = canvas.wrap(subtitle, size=13, width=inner, lines=3) if subtitle else []
    footer = canvas.wrap(attribution, size=11, width=inner, lines=3) if attribution else []
    head_bottom = canvas.MARGIN + len(heading) * canvas.line_height(20) + len(below) * 18
    top = head_bottom + (44 if right is not None else 16) + 26
    height = top + len(queries) * row_height + len(footer) * canvas.line_height(11)
    height += canvas.MARGIN - 8

    sheet = Image.new("RGB", (width, height), canvas.PAPER)
    pen = ImageDraw.Draw(sheet)
    y = canvas.write_lines(pen, (canvas.MARGIN, canvas.MARGIN - 6), heading, size=20, bold=True)
    canvas.write_lines(pen, (canvas.MARGIN, y + 2), below, size=13, color=canvas.MUTED)
    if right is not None:
        _legend(sheet, pen, legend, y=head_bottom + 10)
    _column_heads(pen, y=top - 26, columns=columns, step=step, width=width)
    for q, row in enumerate(images):
        y = top + q * row_height
        if q:
            pen.line((canvas.MARGIN, y - 2, width - canvas.MARGIN, y - 2), fill=canvas.HAIRLINE)
        lines = canvas.line_height(QUERY_SIZE) * len(wrapped[q])
        block = lines + canvas.line_height(NOTE_SIZE) * len(noted[q]) + 4
        below_query = canvas.write_lines(
            pen, (canvas.MARGIN, y + 10 + max(side - block, 0) // 2), wrapped[q], size=QUERY_SIZE
        )
        canvas.write_lines(
            pen, (canvas.MARGIN, below_query + 4), noted[q], size=NOTE_SIZE, color=canvas.MUTED
        )
        for k, image in enumerate(row):
            x = canvas.MARGIN + QUERY_WIDTH + k * step
            sheet.paste(canvas.tile(image, side=side), (x, y + 10))
            if right is None:
                pen.rectangle((x, y + 10, x + side - 1, y + 9 + side), outline=canvas.HAIRLINE)
            else:
                _mark(sheet, pen, (x, y + 10), side=side, right=bool(right[q][k]))
            shown = f"{scores[q][k]:.3f}"
            _centred(pen, (x + side // 2, y + side + 15), shown, size=13)
            if names is not None:
                name = canvas.keep_end(names[q][k], size=NAME_SIZE, width=side)
                at = x + side // 2, y + side + 33
                _centred(pen, at, name, size=NAME_SIZE, color=canvas.MUTED)
    y = top + len(queries) * row_height + 4
    canvas.write_lines(pen, (canvas.MARGIN, y), footer, size=11, color=canvas.MUTED)
    return sheet


def _column_heads(pen: ImageDraw.ImageDraw, *, y: int, columns: int, step: int, width: int) -> None:
    pen.text((canvas.MARGIN, y), "query", fill=canvas.MUTED, font=canvas.font(12))
    for k in range(columns):
        x = canvas.MARGIN + QUERY_WIDTH + k * step + (step - GAP) // 2
        text = "best match" if k == 0 else f"{k + 1}"
        _centred(pen, (x, y), text, size=12, color=canvas.MUTED)
    pen.line((canvas.MARGIN, y + 21, width - canvas.MARGIN, y + 21), fill=canvas.HAIRLINE, width=2)


def _legend(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, texts: tuple[str, str], *, y: int
) -> None:
    x = canvas.MARGIN
    for right, text in zip((True, False), texts, strict=True):
        mark = canvas.badge(right, side=20)
        sheet.paste(mark, (x, y), mark)
        pen.text((x + 26, y + 2), text, fill=canvas.INK, font=canvas.font(13))
        x += 26 + round(canvas.font(13).getlength(text)) + 28
    text = "below each image: its cosine with the query"
    pen.text((x, y + 2), text, fill=canvas.MUTED, font=canvas.font(13))


def _mark(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    *,
    side: int,
    right: bool,
) -> None:
    """The frame around an image, outside of its pixels, and the badge on its corner."""
    x, y = at
    wide = FRAME[right]
    box = (x - wide, y - wide, x + side - 1 + wide, y + side - 1 + wide)
    pen.rectangle(box, outline=canvas.GREEN if right else canvas.RED, width=wide)
    mark = canvas.badge(right, side=BADGE)
    sheet.paste(mark, (x + side - BADGE - 4, y + 4), mark)


def _centred(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    *,
    size: int,
    color: str = canvas.INK,
) -> None:
    wide = canvas.font(size).getlength(text)
    pen.text((at[0] - wide / 2, at[1]), text, fill=color, font=canvas.font(size))
