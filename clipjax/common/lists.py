"""What functions that take a list of texts do with one text, and with what is no list of texts.

    lists.texts("a fox", what="labels")  # ["a fox"], never its letters

A text stands for a list of one. Dictionaries and sets are refused: results come back in the order
of the arguments, and a set has none.
"""

from collections.abc import Iterable, Mapping, Set
from typing import Any


def texts(values: Any, *, what: str) -> list[str]:
    """The texts of one text, a sequence, an array [N] or a generator.

    Args:
      values: what the user gave.
      what: its name, for errors.

    Raises:
      ValueError: it is none of these, or one of its elements is no text.
    """
    if isinstance(values, str | bytes):
        values = [values]
    elif not is_list(values) or getattr(values, "ndim", 1) != 1:
        raise ValueError(f"{what}: {_shown(values)} is no text and no list of texts")
    return [_text(value, what=f"{what}[{index}]") for index, value in enumerate(values)]


def is_list(values: Any) -> bool:
    """Whether it holds several values in an order: neither one value nor a dictionary or a set."""
    return isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping | Set)


def _text(value: Any, *, what: str) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{what}: {_shown(value)} is not UTF-8") from None
    if not isinstance(value, str):
        raise ValueError(f"{what}: {_shown(value)} is no text")
    return value


def _shown(value: Any) -> str:
    """A value as an error names it: on one line, and short."""
    shape = f" of shape {list(value.shape)}" if hasattr(value, "shape") else ""
    text = "" if shape else f" {' '.join(repr(value).split())[:60]}"
    return f"{type(value).__name__}{shape}{text}"
