"""The single objects of `scenes.Objects`, drawn by another designer: black outlines, Noto Emoji.

In the registry under "objects_noto": the hard zero-shot test of a model that has seen OpenMoji
only, since the same places, turns, sizes and backgrounds show unlike drawings. The artwork is the
font "Noto Emoji" (Google, SIL Open Font License 1.1) in package `manimgx-fonts`, unmodified.
"""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import pathlib
from typing import ClassVar

from PIL import Image, ImageFont

from clipjax.common.exits import ConfigError
from clipjax.data.source import Source
from clipjax.data.sources import scenes, sprites

ATTRIBUTION = "Noto Emoji by the Noto Project Authors, SIL Open Font License 1.1"
_FONT_SIZE = 128  # pixels, as OpenMoji's in `sprites`


@dataclasses.dataclass(frozen=True, kw_only=True)
class NotoObjects(Source):
    """Source of single objects in black outline; arguments, labels and keys of `scenes.Objects`."""

    name: ClassVar[str] = "objects_noto"
    labels: ClassVar[tuple[str, ...]] = scenes.Objects.labels
    attribution: ClassVar[str] = ATTRIBUTION

    seed: int = 0
    image_size: int = 64
    length: int = 640

    def __post_init__(self):
        _ = self._coloured  # checks the arguments
        _font()  # so that a missing package shows at once

    @property
    def _coloured(self) -> scenes.Objects:
        """The same objects from the other designer."""
        return scenes.Objects(seed=self.seed, image_size=self.image_size, length=self.length)

    def __len__(self) -> int:
        return self.length

    @property
    def fingerprint(self) -> str:
        version = importlib.metadata.version("manimgx-fonts")
        return f"{self._coloured.fingerprint}-noto-{version}"

    def label(self, index: int) -> str:
        return self._coloured.label(index)

    def caption(self, index: int) -> str:
        return self._coloured.caption(index)

    def key(self, index: int) -> str:
        return self._coloured.key(index)

    def image(self, index: int) -> bytes:
        return self._coloured.image(index, sprite=sprite)


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    spec = importlib.util.find_spec("manimgx_fonts")
    if spec is None or spec.origin is None:
        raise ConfigError(
            'data.source "objects_noto" needs package manimgx-fonts:'
            ' pip install "clipjax[quickstart]"'
        )
    return ImageFont.truetype(
        str(pathlib.Path(spec.origin).parent / "NotoEmoji[wght].ttf"), _FONT_SIZE
    )


@functools.cache
def sprite(symbol: str, *, angle: float, side: int) -> Image.Image:
    """The outline turned by `angle` degrees in a square of `side` pixels: RGBA, do not draw on."""
    glyph = sprites.turned_glyph(symbol, font=_font(), angle=angle)
    return sprites.fitted(glyph, side=side)
