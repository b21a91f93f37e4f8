"""What the dataclasses of a model's settings share; see `shapes.py`."""

import dataclasses
from typing import Any

from clipjax.common.exits import ConfigError

REMAT_POLICIES = ("none", "block", "mlp", "dots")


def one_of(names: tuple[str, ...], default: str) -> Any:
    """A field that takes one of these names."""
    return dataclasses.field(default=default, metadata={"names": names})


def check_multiple(tower: Any, key: str, *, of: str, where: str) -> None:
    """Raise ConfigError unless one setting of a tower is a multiple of another."""
    value, divisor = getattr(tower, key), getattr(tower, of)
    if value % divisor:
        raise ConfigError(
            f"{where}.{key} is {value}, not a multiple of {where}.{of} = {divisor}; change one"
        )
