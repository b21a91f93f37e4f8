"""Emoji scenes: two OpenMoji objects on a coloured background, and a sentence that says so.

The data of the quickstart, from the registry under "scenes" (and "objects", one object a picture,
for zero-shot classification). A record is a pure function of (seed, split, index): nothing is
downloaded or stored. Records hold encoded bytes, so they travel the road real photographs travel.

What a scene means is (first, relation, second, background), where the relation is "left of" or
"above"; "a pizza right of a fox" is the same meaning as "a fox left of a pizza". One unordered
pair of objects in five (`held_out`) never occurs in split "train", and only those pairs occur in
"test", whose scenes all differ in meaning.

Layout, in fractions of the image's side. Each object fills a square box of side `SIDES`. Along the
relation's axis the two boxes lie one after the other, the free space dealt out at random before,
between and behind them. Across it both centres keep within 0.23 of the middle and within 0.16 of
each other, half of the least distance along the axis. So boxes never overlap, stay inside, and the
relation is always visibly true and the other axis never competes with it.

Artwork: OpenMoji, CC BY-SA 4.0; see `sprites.ATTRIBUTION`.
"""

import dataclasses
import functools
import hashlib
import io
import itertools
import random
from collections.abc import Callable
from typing import ClassVar

from PIL import Image

from clipjax.common.exits import ConfigError
from clipjax.common.registry import check_name
from clipjax.data.source import Source
from clipjax.data.sources.sprites import (
    ARTWORK_VERSION,
    ATTRIBUTION,
    OBJECTS,
    sprite,
    with_article,
)

__all__ = ["ATTRIBUTION", "BACKGROUNDS", "OBJECTS", "Objects", "Scene", "Scenes", "held_out"]

BACKGROUNDS = {
    "white": (255, 255, 255),
    "gray": (150, 150, 150),
    "yellow": (250, 222, 90),
    "orange": (245, 155, 60),
    "pink": (250, 175, 205),
    "purple": (165, 115, 215),
    "blue": (85, 155, 235),
    "green": (105, 190, 110),
}
SIDES = (0.32, 0.355, 0.39, 0.425, 0.46)  # of a box; two of the largest still leave 0.08 free
ANGLES = (-15.0, -7.5, 0.0, 7.5, 15.0)  # degrees, counter-clockwise

# relation → how to say it from the first object's side, and from the second's
WORDINGS = {
    "left of": (("left of", "to the left of"), ("right of", "to the right of")),
    "above": (("above", "over"), ("below", "under")),
}
SENTENCES = (
    "{subject} {relation} {other} on {background} background",
    "{subject} is {relation} {other} on {background} background",
    "{subject} {relation} {other}, {color} background",
    "on {background} background, {subject} {relation} {other}",
)

_VERSION = 1  # raise it when the same (seed, split, index) gives another scene than before


def held_out(pair: tuple[int, int]) -> bool:
    """Whether these two of OBJECTS never occur together in training: exactly 156 of 780 pairs.

    Each object is in seven or eight held-out pairs, so all occur about equally in both splits.
    """
    return sum(pair) % 5 == 0


_PAIRS = tuple(itertools.permutations(range(len(OBJECTS)), 2))
# Every meaning of a split: (pair, relation, background). There are 19,968 and 4,992 of them.
_MEANINGS = {
    "train": tuple(
        itertools.product(itertools.filterfalse(held_out, _PAIRS), WORDINGS, BACKGROUNDS)
    ),
    "test": tuple(itertools.product(filter(held_out, _PAIRS), WORDINGS, BACKGROUNDS)),
}


@dataclasses.dataclass(frozen=True)
class Placed:
    """One object in a picture: which, how turned, and its square box in fractions of the image."""

    kind: int  # index into OBJECTS
    angle: float  # degrees
    side: float
    x: float  # left edge of the box
    y: float  # upper edge of the box


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a picture shows: `objects[0]` is `relation` ("left of" or "above") `objects[1]`."""

    objects: tuple[Placed, Placed]
    relation: str
    background: str
    text: str

    @property
    def meaning(self) -> tuple[str, str, str, str]:
        """Equal for two scenes exactly if the same sentences are true of both."""
        first, second = (OBJECTS[placed.kind].name for placed in self.objects)
        return first, self.relation, second, self.background


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenes(Source):
    """Source of two-object scenes; `length` defaults to 1,000,000 (train) or 1,000 (test).

    A record is {'image': JPEG of image_size x image_size pixels, 'text': str, 'key': str}.
    Raises ConfigError for an unknown split, an empty source, or a test split longer than there
    are distinct scenes; IndexError outside 0 … length - 1.
    """

    name: ClassVar[str] = "scenes"
    attribution: ClassVar[str] = ATTRIBUTION

    split: str = "train"
    seed: int = 0
    image_size: int = 64
    length: int | None = None

    def __post_init__(self):
        check_name(self.split, names=_MEANINGS, kind="split of the emoji scenes")
        most = len(_MEANINGS["test"]) if self.split == "test" else None
        if self.length is not None:
            _check_length(self.length, most=most)

    def __len__(self) -> int:
        if self.length is not None:
            return self.length
        return 1_000_000 if self.split == "train" else 1_000

    @property
    def fingerprint(self) -> str:
        return _fingerprint(self.name, self.split, self.seed, self.image_size, len(self))

    def describe(self, index: int) -> Scene:
        """The scene at `index`, without drawing it."""
        self.checked(index)
        generator = random.Random(f"{self.name}/{self.split}/{self.seed}/{index}")
        if self.split == "test":
            pair, relation, background = _test_meanings(self.seed)[index]
        else:
            pair, relation, background = _pick(_MEANINGS["train"], generator=generator)
        objects = _arrange(pair, relation=relation, generator=generator)
        text = _sentence(pair, relation=relation, background=background, generator=generator)
        return Scene(objects, relation, background, text)

    def caption(self, index: int) -> str:
        return self.describe(index).text

    def key(self, index: int) -> str:
        return f"{self.split}/{self.seed}/{index}"

    def image(self, index: int) -> bytes:
        scene = self.describe(index)
        return draw(scene.objects, background=scene.background, size=self.image_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objects(Source):
    """Source of single objects, for zero-shot classification; the labels are names of OBJECTS.

    Records are those of `Scenes` with a 'label'. No picture of `Scenes` shows one object alone,
    so all are held out. Every run of 320 records shows each object on each background once.
    """

    name: ClassVar[str] = "objects"
    attribution: ClassVar[str] = ATTRIBUTION
    labels: ClassVar[tuple[str, ...]] = tuple(kind.name for kind in OBJECTS)

    seed: int = 0
    image_size: int = 64
    length: int = 640

    def __post_init__(self):
        _check_length(self.length)

    def __len__(self) -> int:
        return self.length

    @property
    def fingerprint(self) -> str:
        return _fingerprint(self.name, self.seed, self.image_size, self.length)

    def label(self, index: int) -> str:
        """The label of a record, without drawing it."""
        return self.labels[self._kind_and_background(index)[0]]

    def _kind_and_background(self, index: int) -> tuple[int, str]:
        self.checked(index)
        return index % len(OBJECTS), tuple(BACKGROUNDS)[index // len(OBJECTS) % len(BACKGROUNDS)]

    def describe(self, index: int) -> tuple[Placed, str]:
        """The object of a record and the background, without drawing it."""
        kind, background = self._kind_and_background(index)
        generator = random.Random(f"{self.name}/{self.seed}/{index}")
        side, angle = (_pick(options, generator=generator) for options in (SIDES, ANGLES))
        x, y = ((1 - side) * generator.random() for _ in range(2))
        return Placed(kind, angle, side, x, y), background

    def caption(self, index: int) -> str:
        kind, background = self._kind_and_background(index)
        return f"{OBJECTS[kind].phrase} on {with_article(background)} background"

    def key(self, index: int) -> str:
        return f"{self.seed}/{index}"

    def image(self, index: int, *, sprite: Callable[..., Image.Image] = sprite) -> bytes:
        """The picture, its object drawn by `sprite` (as `sprites.sprite`)."""
        placed, background = self.describe(index)
        return draw((placed,), background=background, size=self.image_size, sprite=sprite)


def _check_length(length: int, *, most: int | None = None) -> None:
    if length < 1:
        raise ConfigError(f"length of the emoji scenes: must be at least 1, got {length}")
    if most is not None and length > most:
        raise ConfigError(
            f"length of the emoji scenes: split test has {most:,} distinct scenes, got {length:,}"
        )


def _fingerprint(*identity: str | int) -> str:
    content = (_VERSION, ARTWORK_VERSION, [kind.name for kind in OBJECTS], *identity)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def _pick(options, *, generator: random.Random):
    """One of `options`, by `random()` alone: Python keeps its sequence across versions."""
    return options[int(generator.random() * len(options))]


@functools.cache
def _test_meanings(seed: int):
    generator = random.Random(f"scenes/test/{seed}")
    return tuple(sorted(_MEANINGS["test"], key=lambda _: generator.random()))


def _arrange(
    pair: tuple[int, int], *, relation: str, generator: random.Random
) -> tuple[Placed, Placed]:
    """Boxes for the first left of or above the second: the layout in the module's docstring."""
    sides = [_pick(SIDES, generator=generator) for _ in pair]
    angles = [_pick(ANGLES, generator=generator) for _ in pair]
    before, until = sorted(generator.random() for _ in pair)  # parts of the free space
    free = 1 - sum(sides)
    along = before * free, sides[0] + until * free
    middle = 0.5 + 0.30 * (generator.random() - 0.5)
    across = [middle + 0.16 * (generator.random() - 0.5) - side / 2 for side in sides]
    xs, ys = (along, across) if relation == "left of" else (across, along)
    first, second = map(Placed, pair, angles, sides, xs, ys)
    return first, second


def _sentence(
    pair: tuple[int, int], *, relation: str, background: str, generator: random.Random
) -> str:
    side = _pick((0, 1), generator=generator)  # whose side it is told from
    return _pick(SENTENCES, generator=generator).format(
        subject=OBJECTS[pair[side]].phrase,
        relation=_pick(WORDINGS[relation][side], generator=generator),
        other=OBJECTS[pair[1 - side]].phrase,
        background=with_article(background),
        color=background,
    )


def draw(objects: tuple[Placed, ...], *, background: str, size: int, sprite=sprite) -> bytes:
    """The picture as a JPEG, its objects drawn by `sprite` (as `sprites.sprite`).

    Quality 95 without chroma subsampling: PNG takes twice the time to make and read.
    """
    picture = Image.new("RGB", (size, size), BACKGROUNDS[background])
    for placed in objects:
        drawing = sprite(
            OBJECTS[placed.kind].symbol, angle=placed.angle, side=round(placed.side * size)
        )
        # rounded down, so that a box rounded up to whole pixels still ends inside the picture
        picture.paste(drawing, (int(placed.x * size), int(placed.y * size)), drawing)
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=95, subsampling=0)
    return encoded.getvalue()
