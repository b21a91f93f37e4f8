"""Real handwritten digits with captions: the 1,797 of scikit-learn's `load_digits`.

In the registry under "digits"; the data of `configs/digits.py`. The pictures are the test part of
"Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI, 1998): 8 × 8 pixels, 17
levels of grey, written by 13 people, who cannot be told apart in scikit-learn's copy. Every
fifth picture of each digit is held out, so both splits hold the same writers: a high score here
says that training works, not that strangers' digits would be read as well.
"""

import dataclasses
import functools
import hashlib
import io
from typing import Any, ClassVar

from PIL import Image

from clipjax.common.exits import ConfigError
from clipjax.common.registry import check_name
from clipjax.data.source import Source

LABELS = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Captions to train on. Templates for evaluation that are not among them are `evals.prompts`' part.
CAPTIONS = (
    "a photo of the digit {}",
    "the digit {}",
    "a handwritten {}",
    "the number {} written by hand",
    "a small picture of the number {}",
    "{}, a handwritten digit",
    "someone wrote a {}",
    "this is a {}",
)
HELD_OUT_EVERY = 5
SPLITS = ("train", "test")
SIDE = 32  # pixels of a digit; the originals have 8
MARGIN = 3  # pixels left and right, so that the random square of training moves the digit

_VERSION = 1  # raise it when a record changes


@functools.cache
def _digits() -> tuple[Any, Any]:
    """(pictures float64 [1797, 8, 8] of 0 … 16, digits int64 [1797])."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ConfigError(
            'data.source "digits" needs package scikit-learn: pip install "clipjax[quickstart]"'
        ) from error
    loaded: Any = datasets.load_digits()
    return loaded.images, loaded.target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits(Source):
    """Source of one split: 1,433 records in "train", 364 in "test".

    A record is {'image': PNG of 38 × 32 pixels, light on dark, 'text': list of captions, 'key',
    'label': "0" … "9"}.

    Raises ConfigError for an unknown split or without scikit-learn; IndexError outside the split.
    """

    name: ClassVar[str] = "digits"
    labels: ClassVar[tuple[str, ...]] = LABELS

    split: str = "train"

    def __post_init__(self):
        check_name(self.split, names=SPLITS, kind="split of the digits")
        _digits()  # so that a missing package shows at once

    @property
    def _places(self) -> list[int]:
        return _places()[self.split]

    def __len__(self) -> int:
        return len(self._places)

    @property
    def fingerprint(self) -> str:
        pictures, digits = _digits()
        content = hashlib.sha256(pictures.astype("uint8").tobytes() + digits.tobytes())
        content.update(repr((_VERSION, SIDE, MARGIN, CAPTIONS, self._places)).encode())
        return content.hexdigest()[:16]

    def _place(self, index: int) -> int:
        return self._places[self.checked(index)]

    def key(self, index: int) -> str:
        """The place in scikit-learn's copy."""
        return str(self._place(index))

    def label(self, index: int) -> str:
        """The label of a record, without drawing it."""
        return LABELS[int(_digits()[1][self._place(index)])]

    def caption(self, index: int) -> list[str]:
        name = NAMES[LABELS.index(self.label(index))]
        return [caption.replace("{}", name) for caption in CAPTIONS]

    def image(self, index: int) -> bytes:
        return _png(self._place(index))


@functools.cache
def _places() -> dict[str, list[int]]:
    """Split → where its pictures stand in scikit-learn's copy."""
    positions: dict[str, list[int]] = {split: [] for split in SPLITS}
    seen = [0] * len(LABELS)
    for position, digit in enumerate(_digits()[1]):
        positions["train" if seen[digit] % HELD_OUT_EVERY else "test"].append(position)
        seen[digit] += 1
    return positions


@functools.cache
def _png(place: int) -> bytes:
    levels = _digits()[0][place]
    small = Image.fromarray((levels * (255 / 16)).round().astype("uint8"))
    encoded = io.BytesIO()
    picture = Image.new("L", (SIDE + 2 * MARGIN, SIDE))
    picture.paste(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (MARGIN, 0))
    picture.convert("RGB").save(encoded, "PNG")
    return encoded.getvalue()
