"""What is checked of a suite when it is made, before a model is loaded; `suites` calls it."""

import os
import re
from collections.abc import Iterable
from typing import Any

from clipjax.common import lists
from clipjax.common.exits import ConfigError
from clipjax.common.registry import check_name
from clipjax.evals.protocols import registry

FILE_NAME = re.compile(r"(?!\.+$)[^/\\\s]([^/\\\x00\n\r]*[^/\\\s])?")


def protocol_names(names: str | Iterable[str], *, where: str = "run") -> tuple[str, ...]:
    """The protocols, or the one, by name; ConfigError naming the closest for an unknown one."""
    try:
        listed = tuple(lists.texts(names, what=where))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for name in listed:
        check_name(name, names=registry.IN_SUITES, kind=where)
    return listed


def path(value: Any, *, where: str) -> str:
    """A path as a text; ConfigError for what is none."""
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{where}={value!r}: is no path")
    return os.fspath(value)


def text(value: Any, *, where: str) -> str:
    """A text; ConfigError for what is none."""
    if not isinstance(value, str):
        raise ConfigError(f"{where}={value!r}: is no text")
    return value


def size(value: Any, *, where: str) -> int | None:
    """A number of images, or None; ConfigError for what is neither."""
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ConfigError(f"{where}={value!r}: is no number of images")
    return value


def file_name(name: Any, *, where: str) -> None:
    """Raise ConfigError if results could not lie in a file of this name."""
    if not isinstance(name, str) or not FILE_NAME.fullmatch(name):
        raise ConfigError(f'{where} "{name}" needs a name that a file can have')
