"""What the pictures share: colours, fonts, wrapped text, image tiles, marks, and PNG bytes."""

import functools
import importlib.util
import io
import math
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

PAPER = "#ffffff"
INK = "#1c2329"
MUTED = "#66717b"
HAIRLINE = "#d8dee4"
# Okabe and Ito's set (2008), which people with any colour vision can tell apart
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
)
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)

ENDINGS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".pdf": "PDF"}
MARGIN = 28
TILE = 160  # least side of a shown image, in pixels
LARGEST_TILE = 256
ELLIPSIS = "…"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@functools.cache
def font(size: int, *, bold: bool = False) -> Font:
    """DejaVu Sans out of matplotlib's files, for its many scripts; else Pillow's own font."""
    spec = importlib.util.find_spec("matplotlib")  # finds it without importing it
    for folder in (spec and spec.submodule_search_locations) or ():
        name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
        file = os.path.join(folder, "mpl-data", "fonts", "ttf", name)
        if os.path.exists(file):
            return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)
    return ImageFont.load_default(size)


def line_height(size: int) -> int:
    """Pixels from one line of text to the next."""
    return round(size * 1.38)


def wrap(text: str, *, size: int, width: int, lines: int, bold: bool = False) -> list[str]:
    """`text` in at most `lines` lines of `width` pixels; what is cut off becomes an ellipsis.

    Breaks at spaces, and inside a word (or a script without spaces) that is wider than a line.
    """
    typeface = font(size, bold=bold)
    text = "".join(c if c.isprintable() else " " for c in text)
    wrapped, line = [], ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if typeface.getlength(joined) <= width:
            line = joined
            continue
        if line:
            wrapped.append(line)
        line = word
        while typeface.getlength(line) > width and len(line) > 1:
            fits = _fitting(line, typeface=typeface, width=width)
            wrapped.append(line[:fits])
            line = line[fits:]
        if len(wrapped) > lines:
            break
    wrapped.append(line)
    if len(wrapped) > lines:
        wrapped = wrapped[:lines]
        last = wrapped[-1]
        while last and typeface.getlength(last + ELLIPSIS) > width:
            last = last[:-1]
        wrapped[-1] = last.rstrip(" ,.;") + ELLIPSIS
    return wrapped


def keep_end(text: str, *, size: int, width: int) -> str:
    """`text` in one line of `width` pixels; what does not fit is cut off its beginning."""
    typeface = font(size)
    if typeface.getlength(text) <= width:
        return text
    while text and typeface.getlength(ELLIPSIS + text) > width:
        text = text[1:]
    return ELLIPSIS + text


def _fitting(text: str, *, typeface: Font, width: int) -> int:
    """How many of the first characters fit, at least one."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if typeface.getlength(text[:middle]) <= width else (low, middle - 1)
        )
    return low


def write_lines(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    lines: Sequence[str],
    *,
    size: int,
    color: str = INK,
    bold: bool = False,
) -> int:
    """Write lines downwards from the upper left corner `at`; returns the y below them."""
    x, y = at
    for line in lines:
        draw.text((x, y), line, fill=color, font=font(size, bold=bold))
        y += line_height(size)
    return y


def tile_side(images: Sequence[np.ndarray]) -> int:
    """The side at which images [H, W, 3] are shown, in pixels.

    Small ones are enlarged a whole number of times, so that all their pixels stay equal; large
    ones are shrunk.
    """
    side = max(max(image.shape[:2]) for image in images)
    times = min(math.ceil(TILE / side), max(LARGEST_TILE // side, 1))
    return min(side * times, LARGEST_TILE)


def tile(image: np.ndarray, *, side: int) -> Image.Image:
    """uint8 [H, W, 3] inside side × side pixels: enlarged pixel by pixel, or shrunk smoothly."""
    picture = Image.fromarray(np.ascontiguousarray(image, np.uint8))
    scale = side / max(picture.size)
    shape = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    if shape != picture.size:
        smooth = Image.Resampling.LANCZOS
        picture = picture.resize(shape, Image.Resampling.NEAREST if scale > 1 else smooth)
    whole = Image.new("RGB", (side, side), HAIRLINE)
    whole.paste(picture, ((side - shape[0]) // 2, (side - shape[1]) // 2))
    return whole


@functools.cache
def badge(right: bool, *, side: int) -> Image.Image:
    """A disc with a white tick or cross, RGBA side × side."""
    large = side * 4  # drawn large and shrunk, because Pillow's lines have hard edges
    picture = Image.new("RGBA", (large, large), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((0, 0, large - 1, large - 1), fill=PAPER)
    rim = large * 0.07
    draw.ellipse((rim, rim, large - 1 - rim, large - 1 - rim), fill=GREEN if right else RED)
    if right:
        strokes = [[(0.28, 0.52), (0.44, 0.68), (0.73, 0.35)]]
    else:
        strokes = [[(0.33, 0.33), (0.67, 0.67)], [(0.67, 0.33), (0.33, 0.67)]]
    for stroke in strokes:
        points = [(x * large, y * large) for x, y in stroke]
        draw.line(points, fill=PAPER, width=round(large * 0.11), joint="curve")
        for x, y in points:
            r = large * 0.055
            draw.ellipse((x - r, y - r, x + r, y + r), fill=PAPER)
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def png(picture: Image.Image, *, title: str, description: str, attribution: str = "") -> bytes:
    """The picture as PNG bytes that carry their own title, description and attribution."""
    texts = PngImagePlugin.PngInfo()
    for key, value in (
        ("Title", title),
        ("Description", description),
        ("Copyright", attribution),
    ):
        if value:
            texts.add_itxt(key, value)
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", pnginfo=texts)
    return encoded.getvalue()


def encoded(picture: Image.Image, *, ending: str) -> bytes:
    """The picture's bytes in the format of a file's `ending`, one of `ENDINGS`."""
    content = io.BytesIO()
    picture.save(content, ENDINGS[ending])
    return content.getvalue()


def png_texts(content: bytes) -> dict[str, str]:
    """The texts that `png` put into the bytes: {"Title": …, "Description": …}."""
    with Image.open(io.BytesIO(content)) as picture:
        return {str(key): str(value) for key, value in picture.info.items()}
