"""What a setting may be: its kind, its range, and the words that say so; read without jax.

`config_ranges.py` gives each setting of a run its range, `models/config.py` each field of a model:

    share.check(1.5, where="config.optimizer.beta2")
    # ConfigError: config.optimizer.beta2=1.5: must be at least 0 and below 1, a number

No range holds NaN or infinity, and True is no number.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from clipjax.common import durations, files
from clipjax.common.exits import ConfigError
from clipjax.common.registry import check_name

LARGEST = 10**9  # of numbers whose range names no other end; what is larger is a slip
LONGEST = 1e15  # of durations, in their unit


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that a setting may have.

    Attributes:
      kind: what each of them is, "a whole number".
      holds: whether a value is one of them.
      bounds: which of the kind, "at least 0 and below 1"; "" is all.
      explain: (value, setting) → raises a ConfigError that says more than kind and bounds, where
        there is more to say.
    """

    kind: str
    holds: Callable[[Any], bool]
    bounds: str = ""
    explain: Callable[[Any, str], None] = lambda value, where: None

    def check(self, value: Any, *, where: str) -> None:
        """Raise ConfigError, one line, unless the setting called `where` may be `value`."""
        if not self.holds(value):
            self.explain(value, where)
            must = ", ".join(filter(None, (self.bounds, self.kind)))
            raise ConfigError(f"{where}={shown(value)}: must be {must}")


def as_flag(value: Any) -> str:
    """A value as it stands behind --config.name=, where that can be told from others."""
    return value if isinstance(value, str) and value.isprintable() and value else shown(value)


def shown(value: Any) -> str:
    """A value as Python writes it, on one line, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}…"


def whole(at_least: int = 1, *, at_most: int = LARGEST, also: str = "") -> Range:
    """Whole numbers from `at_least` to `at_most`, and `also`, "-1 for all that remain"."""
    apart = int(also.split()[0]) if also else at_least

    def holds(value: Any) -> bool:
        right = isinstance(value, int) and not isinstance(value, bool)
        return right and (at_least <= value <= at_most or value == apart)

    low = "positive" if at_least == 1 else f"at least {at_least:,}"
    return Range(_or("a whole number", also), holds, f"{low} and at most {at_most:,}")


def number(
    at_least: float = -LARGEST,
    *,
    above: float | None = None,
    at_most: float = LARGEST,
    below: float | None = None,
    also: str = "",
) -> Range:
    """Finite numbers between the ends that are named, and `also`, "0 for off"."""
    apart = float(also.split()[0]) if also else None

    def holds(value: Any) -> bool:
        right = isinstance(value, int | float) and not isinstance(value, bool)
        inside = right and at_least <= value <= at_most
        inside = inside and (above is None or value > above) and (below is None or value < below)
        return inside or (right and value == apart)

    low = f"at least {at_least}" if above is None else f"above {above}" if above else "positive"
    high = f"at most {at_most:,}" if below is None else f"below {below}"
    return Range(_or("a number", also), holds, f"{low} and {high}")


def _or(kind: str, also: str) -> str:
    return f"{kind}, or {also}" if also else kind


share = number(0, below=1)
flag = Range("True or False", lambda value: isinstance(value, bool))


def _is_text(value: Any) -> bool:
    # --config.wandb=None gives a text the word None, which hardly is a name that anyone chose.
    return isinstance(value, str) and value != "None" and "\0" not in value


text = Range('text, "" for none', _is_text)
filled_text = Range("text, not empty", lambda value: _is_text(value) and bool(value.strip()))


def path(protocols: Sequence[str] | None = files.PROTOCOLS) -> Range:
    """Paths of files and folders, see `files.resolve`; "" where there is none."""

    def check(value: Any, where: str) -> None:
        if isinstance(value, str):
            files.check_protocol(value, setting=where, protocols=protocols)

    def holds(value: Any) -> bool:
        try:
            check(value, "")
        except ConfigError:
            return False
        return text.holds(value)

    return Range(text.kind, holds, explain=check)


def one_of(names: Iterable[str], *, empty: bool = False) -> Range:
    """One of these names, or "" if `empty`; the closest is said of a name that is none."""
    names = tuple(names)

    def explain(value: Any, where: str) -> None:
        if isinstance(value, str):
            check_name(value, names=names, kind=where)

    known = ", ".join(names) + (' or ""' if empty else "")
    allowed = (*names, "") if empty else names
    return Range(
        f"one of {known}",
        lambda value: isinstance(value, str) and value in allowed,
        explain=explain,
    )


def duration(*, zero: bool = False, empty: bool = False) -> Range:
    """Amounts of training, "2000 steps": positive unless `zero`, and "" too if `empty`."""

    def holds(value: Any) -> bool:
        try:
            amount = 1 if empty and value == "" else durations.parse(value, where="").amount
        except ConfigError:
            return False
        return 0 < amount <= LONGEST or (zero and amount == 0)

    def explain(value: Any, where: str) -> None:
        durations.parse(value, where=where)
        raise ConfigError(f"{where}={value}: must be positive and at most {LONGEST:,.0f}")

    return Range("a duration", holds, explain=explain)


def _is_window(value: Any) -> bool:
    try:
        return isinstance(value, str) and durations.step_window(value, where="") is not None
    except ConfigError:
        return False


window = Range('"100:105", the first step and the one after the last, or "" for none', _is_window)


def _regex_fault(value: Any) -> str:
    """Why a value is no regular expression; "" if it is one."""
    if not isinstance(value, str):
        return "it is not text"
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    return ""


def _refuse_regex(value: Any, where: str) -> None:
    raise ConfigError(
        f"{where}={shown(value)}: is no regular expression of parameter names:"
        f" {_regex_fault(value)}"
    )


regex = Range("a regular expression", lambda value: not _regex_fault(value), explain=_refuse_regex)


def listed(each: Range, *, counts: range = range(LARGEST), kind: str) -> Range:
    """Lists and tuples whose every value is in the range `each`, of as many as `counts` says."""

    def is_list(value: Any) -> bool:
        return isinstance(value, list | tuple) and len(value) in counts

    def explain(value: Any, where: str) -> None:
        for place, item in enumerate(value if is_list(value) else ()):
            each.check(item, where=f"{where}[{place}]")

    return Range(
        kind,
        lambda value: is_list(value) and all(map(each.holds, value)),
        explain=explain,
    )


def pair(first: Range, second: Range, *, kind: str) -> Range:
    """Lists and tuples of two values, each of a range of its own."""

    def is_pair(value: Any) -> bool:
        return isinstance(value, list | tuple) and len(value) == 2

    def explain(value: Any, where: str) -> None:
        if is_pair(value):
            first.check(value[0], where=f"{where}[0]")
            second.check(value[1], where=f"{where}[1]")

    return Range(
        kind,
        lambda value: is_pair(value) and first.holds(value[0]) and second.holds(value[1]),
        explain=explain,
    )


def rules(result: Range, *, least: int = 1, example: str) -> Range:
    """Lists of pairs of a regular expression and what it gives, at least so many."""
    one = pair(regex, result, kind=f"a pair, {example}")
    return listed(one, counts=range(least, LARGEST), kind=f"a list of pairs, ({example},)")


OF_TYPE: dict[Any, Range] = {int: whole(), float: number(above=0), bool: flag}


def field(values: Range, default: Any) -> Any:
    """A dataclass's field whose values are of this range."""
    return dataclasses.field(default=default, metadata={"range": values})


def named(names: Iterable[str], default: str) -> Any:
    """A dataclass's field that takes one of these names."""
    return field(one_of(names), default)


def as_tuple(value: Any) -> Any:
    """A tuple for a list, which JSON makes of tuples."""
    return tuple(value) if isinstance(value, list) else value


def check_fields(section: Any, *, where: str) -> None:
    """Raise ConfigError on the first field of a dataclass whose value is out of its range, which
    `field` or else its type says."""
    for each in dataclasses.fields(section):
        value, name = getattr(section, each.name), f"{where}.{each.name}"
        values = each.metadata.get("range") or OF_TYPE.get(each.type)
        if values is not None and not values.holds(value):
            values.explain(value, name)
            bounds = f", {values.bounds}" if values.bounds else ""
            raise ConfigError(f"{name} is {shown(value)}; give {values.kind}{bounds}")
