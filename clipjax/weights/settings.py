"""Settings in other programs' JSON files: each is read as what it must be, or one line says not.

JSON that a user brings may hold anything anywhere: null, text where a number belongs, lists of two
sizes, numbers beyond all bounds. Readers ask for a whole number, a switch, three numbers, and get
it or a DataError that names file, key and value.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from clipjax.common.exits import DataError

LARGEST = 1 << 31  # that any whole number may be
LONGEST = 60  # characters of a value in a message
REQUIRED: Any = object()  # in place of a default


@dataclasses.dataclass(frozen=True)
class Settings:
    """A JSON object whose values are read by type.

    Every method takes a key and the value that the format defines where the key is left out;
    without one the key is required.

    Attributes:
      values: the object.
      file: its file's name, for messages.
      where: path of the object in the file, "vision_config."; "" is the whole.
    """

    values: Mapping[str, Any]
    file: str
    where: str = ""

    def fail(self, key: str, problem: str) -> DataError:
        """The error to raise about a key: names file, key and value."""
        value = repr(self.values.get(key))
        value = value if len(value) <= LONGEST else f"{value[:LONGEST]}…"
        return DataError(f"{self.file}: {self.where}{key}={value} {problem}")

    def given(self, key: str, default: Any = REQUIRED) -> Any:
        """The value as it is."""
        if key not in self.values and default is REQUIRED:
            raise DataError(f"{self.file}: {self.where}{key} is missing or misplaced")
        return self.values.get(key, default)

    def without_nulls(self) -> "Settings":
        """The same where null means left out."""
        kept = {key: value for key, value in self.values.items() if value is not None}
        return dataclasses.replace(self, values=kept)

    def part(self, key: str, default: Any = REQUIRED) -> "Settings":
        """The object under a key."""
        value = self.given(key, default)
        if not isinstance(value, Mapping):
            raise self.fail(key, "is missing or misplaced; it must be an object")
        return Settings(value, self.file, f"{self.where}{key}.")

    def whole(self, key: str, default: Any = REQUIRED) -> int:
        """A whole number, at least 1."""
        value = self.given(key, default)
        if not is_whole(value):
            raise self.fail(key, "is no whole number from 1 on; no model has such sizes")
        return value

    def number(self, key: str, default: Any = REQUIRED, *, most: float = 1e6) -> float:
        """A number above 0."""
        value = self.given(key, default)
        if not (is_number(value) and 0 < value <= most):
            raise self.fail(key, f"is no number above 0 and up to {most:g}")
        return value

    def switch(self, key: str, default: Any = REQUIRED) -> bool:
        """True or false."""
        value = self.given(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, "is neither true nor false")
        return value

    def one_of(self, key: str, known: Any, default: Any = REQUIRED) -> Any:
        """One of the values that clipjax can compute."""
        value = self.given(key, default)
        if not any(type(value) is type(one) and value == one for one in known):
            raise self.fail(key, f"is not supported; clipjax has {', '.join(map(str, known))}")
        return value

    def side(self, key: str, default: Any = REQUIRED) -> int:
        """The side of a square, given as one whole number or as two equal ones."""
        value = self.given(key, default)
        pair = isinstance(value, list | tuple) and len(value) == 2
        one, other = value if pair else (value, value)
        if is_whole(one) and one == other:
            return one
        raise self.fail(key, "is no side of a square; clipjax has square images and patches")

    def three(self, key: str, default: Any = REQUIRED, *, least: float) -> tuple[float, ...]:
        """Three numbers, red green blue, from `least` to 1."""
        value = self.given(key, default)
        if (
            not isinstance(value, list | tuple)
            or len(value) != 3
            or not all(is_number(one) and least <= one <= 1 for one in value)
        ):
            raise self.fail(key, f"is missing or misplaced; give three numbers, {least:g} to 1")
        return tuple(value)


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether it is a whole number from 1 to LARGEST; true and 2.0 are none."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST


def is_number(value: Any) -> bool:
    """Whether it is a finite number; true is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
