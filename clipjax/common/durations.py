"""Durations as one string, "2000 steps", "12.8G examples", "32 epochs", and windows of steps.

Config files write them, `clipjax.build` turns them into optimizer steps.
"""

import dataclasses
import re

from clipjax.common.exits import ConfigError

UNITS = {"step": "steps", "example": "examples", "epoch": "epochs"}
FACTORS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
PATTERN = re.compile(r"\s*([0-9][0-9_,]*\.?[0-9]*)\s*([kKMGB]?)\s+(step|example|epoch)s?\s*")


@dataclasses.dataclass(frozen=True)
class Duration:
    """An amount of training: `amount` of `unit`, which is "steps", "examples" or "epochs"."""

    amount: float
    unit: str


def parse(text: str, *, where: str) -> Duration:
    """`text` as a Duration; ConfigError naming the key `where` if it is none."""
    match = PATTERN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ConfigError(
            f"{where}: {text!r} is not a duration; write one like"
            ' "2000 steps", "12.8G examples" or "32 epochs"'
        )
    number, factor, unit = match.groups()
    return Duration(float(re.sub("[_,]", "", number)) * FACTORS[factor], UNITS[unit])


def steps(text: str, *, where: str, batch_size: int, epoch_examples: int | None = None) -> int:
    """Optimizer steps in the duration `text`, rounded to the nearest step (at least 1 unless zero).

    Args:
      text: the duration.
      where: the config key it came from, for errors.
      batch_size: global batch, in examples.
      epoch_examples: examples in an epoch; None where no epoch is known.

    Raises:
      ConfigError: not a duration, or epochs where no epoch is known.
    """
    duration = parse(text, where=where)
    if duration.unit == "steps":
        exact = duration.amount
    elif duration.unit == "examples":
        exact = duration.amount / batch_size
    elif epoch_examples is None:
        raise ConfigError(f"{where}: {text!r} needs data of known length; write steps or examples")
    else:
        exact = duration.amount * epoch_examples / batch_size
    return max(int(exact + 0.5), 1) if duration.amount else 0


def examples(text: str, *, where: str, batch_size: int, epoch_examples: int | None = None) -> int:
    """Examples in the duration `text`, rounded to the nearest; arguments and errors as `steps`."""
    duration = parse(text, where=where)
    if duration.unit != "examples":
        count = steps(text, where=where, batch_size=batch_size, epoch_examples=epoch_examples)
        return count * batch_size
    return int(duration.amount + 0.5)


def step_window(text: str, *, where: str) -> range:
    """The steps of "100:105", 100 to 104; "" is none; ConfigError naming the key for others."""
    if not text:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ConfigError(f'{where}={text}: write "100:105", the first step and the one after')
    return range(int(match[1]), int(match[2]))
