"""A sheet of training examples: image, caption, and the tokens, as they enter the model."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from clipjax.pictures import canvas

COLUMNS = 6
GAP = 22
CAPTION_SIZE = 13
CAPTION_LINES = 5
TOKEN_SIZE = 11
TOKEN_LINES = 6
TOKEN_COLORS = ("#dcecf7", "#e9edf0")  # one after the other, so that neighbours stay apart
CUT = "cut off here"

Chip = tuple[int, str, str, str]  # width in pixels, text, colour, colour of the text


def draw(
    images: Sequence[np.ndarray],
    *,
    captions: Sequence[str],
    tokens: Sequence[Sequence[str]],
    truncated: Sequence[bool] | None = None,
    title: str,
    subtitle: str = "",
    attribution: str = "",
) -> Image.Image:
    """The sheet.

    Args:
      images: N times uint8 [H, W, 3], after cropping; small ones are enlarged pixel by pixel.
      captions: N texts as chosen and cleaned.
      tokens: for each caption its tokens, each decoded alone, without start, end and padding.
      truncated: whether a caption did not fit; the sheet says so after its tokens.
      title, subtitle, attribution: lines above and below; "" leaves one out.
    """
    side = canvas.tile_side(images)
    most = COLUMNS if side < 200 else COLUMNS - 1
    columns = math.ceil(len(images) / math.ceil(len(images) / most))  # full rows where possible
    captioned = [
        canvas.wrap(text, size=CAPTION_SIZE, width=side, lines=CAPTION_LINES) for text in captions
    ]
    cut = [False] * len(images) if truncated is None else truncated
    placed = [_flow(row, width=side, cut=bool(c)) for row, c in zip(tokens, cut, strict=True)]
    rows = [range(k, min(k + columns, len(images))) for k in range(0, len(images), columns)]
    caption_step, token_step = canvas.line_height(CAPTION_SIZE), TOKEN_SIZE + 9
    text_heights = [max(len(captioned[i]) for i in row) * caption_step for row in rows]
    token_heights = [max((len(placed[i]) for i in row), default=0) * token_step for row in rows]

    width = 2 * canvas.MARGIN + columns * side + (columns - 1) * GAP
    inner = width - 2 * canvas.MARGIN
    heading = canvas.wrap(title, size=20, width=inner, lines=2, bold=True)
    below = canvas.wrap(subtitle, size=13, width=inner, lines=3) if subtitle else []
    footer = canvas.wrap(attribution, size=11, width=inner, lines=3) if attribution else []
    top = canvas.MARGIN + len(heading) * canvas.line_height(20) + len(below) * 18 + 14
    height = top + sum(text_heights) + sum(token_heights) + len(rows) * (side + 16 + GAP)
    height += len(footer) * canvas.line_height(11) + canvas.MARGIN - 8

    sheet = Image.new("RGB", (width, height), canvas.PAPER)
    pen = ImageDraw.Draw(sheet)
    y = canvas.write_lines(pen, (canvas.MARGIN, canvas.MARGIN - 6), heading, size=20, bold=True)
    canvas.write_lines(pen, (canvas.MARGIN, y + 2), below, size=13, color=canvas.MUTED)
    y = top
    for row, text_height, token_height in zip(rows, text_heights, token_heights, strict=True):
        for column, i in enumerate(row):
            x = canvas.MARGIN + column * (side + GAP)
            sheet.paste(canvas.tile(images[i], side=side), (x, y))
            pen.rectangle((x, y, x + side - 1, y + side - 1), outline=canvas.HAIRLINE)
            canvas.write_lines(pen, (x, y + side + 7), captioned[i], size=CAPTION_SIZE)
            _write_tokens(pen, (x, y + side + 12 + text_height), placed[i])
        y += side + text_height + token_height + 16 + GAP
    canvas.write_lines(pen, (canvas.MARGIN, y), footer, size=11, color=canvas.MUTED)
    return sheet


def _flow(tokens: Sequence[str], *, width: int, cut: bool) -> list[list[Chip]]:
    """Lines of chips for the tokens; a last one says how many are not shown, or that some are lost.

    A token that decodes to nothing, such as a lone space, is shown as a dot.
    """
    chips = [_chip(token or "·", color=TOKEN_COLORS[i % 2]) for i, token in enumerate(tokens)]
    end = [_chip(CUT, color=canvas.RED, ink=canvas.PAPER)] if cut else []
    lines = _lines(chips + end, width=width)
    kept = len(tokens)
    while len(lines) > TOKEN_LINES:
        kept -= 1
        more = _chip(f"+ {len(tokens) - kept} more", color=canvas.PAPER, ink=canvas.MUTED)
        lines = _lines([*chips[:kept], more, *end], width=width)
    return lines


def _chip(text: str, *, color: str, ink: str = canvas.INK) -> Chip:
    text = canvas.wrap(text, size=TOKEN_SIZE, width=canvas.TILE - 10, lines=1)[0] or "·"
    return round(canvas.font(TOKEN_SIZE).getlength(text)) + 7, text, color, ink


def _lines(chips: Sequence[Chip], *, width: int) -> list[list[Chip]]:
    lines: list[list[Chip]] = []
    x = width
    for chip in chips:
        if x + chip[0] > width:
            lines.append([])
            x = 0
        lines[-1].append(chip)
        x += chip[0] + 2
    return lines


def _write_tokens(
    pen: ImageDraw.ImageDraw, at: tuple[int, int], lines: Sequence[Sequence[Chip]]
) -> None:
    left, y = at
    for line in lines:
        x = left
        for wide, text, color, ink in line:
            box = (x, y, x + wide - 1, y + TOKEN_SIZE + 5)
            pen.rounded_rectangle(box, radius=3, fill=color)
            pen.text((x + 3, y + 1), text, fill=ink, font=canvas.font(TOKEN_SIZE))
            x += wide + 2
        y += TOKEN_SIZE + 9
