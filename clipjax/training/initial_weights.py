"""Starting a run from another run's weights: which parameters to take, and how to make them fit."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from clipjax.common import trees
from clipjax.common.exits import ConfigError
from clipjax.models import positions, transformer

DESCRIBE = "config.model must describe the weights' model"


def initialise_from(
    variables: Any, source: Any, *, towers: Sequence[str], resize_positions: bool, where: str
) -> Any:
    """`variables` with the given towers' weights in place of its own, in its own shardings.

    Layers may be stacked for a scan on one side and single on the other. `logit_scale` is taken
    too. With `resize_positions` a position table of another size is interpolated: bicubic over the
    image grid, linear over text.

    Args:
      variables: `params` and `batch_stats`, sharded arrays, of the new run.
      source: the same as host arrays, of the other run.
      towers: "vision", "text" or both.
      resize_positions: whether to.
      where: the config key, for errors.

    Raises:
      ConfigError: a parameter is missing or its shape differs; names the first.
    """
    stacked = any("/blocks/" in name for name, _ in trees.named_leaves(variables))
    source = transformer.unstack_blocks(source)
    source = transformer.stack_blocks(source) if stacked else source
    weights = dict(trees.named_leaves(source))

    def take(name: str, own: jax.Array) -> jax.Array:
        tower, *inside = name.split("/")[1:]
        if inside and tower not in towers:
            return own
        if name not in weights:
            raise ConfigError(f"{where}: has no {name}; {DESCRIBE}")
        value = weights[name]
        if resize_positions and inside[-1:] == ["position_embedding"]:
            value = _resize(value, own=own, tower=tower)
        if value.shape != own.shape:
            raise ConfigError(
                f"{where}: {name} is {value.shape} there, {own.shape} in this model; {DESCRIBE}"
            )
        value = np.asarray(value, own.dtype)
        return jax.make_array_from_callback(own.shape, own.sharding, lambda index: value[index])

    return trees.map_with_names(take, variables)


def _resize(table: Any, *, own: jax.Array, tower: str) -> Any:
    """The table in the size of this model's own; of images it may have a row before the grid's."""
    if tower == "text":
        return positions.resize_sequence(table, length=own.shape[0])
    side = math.isqrt(own.shape[0])
    return positions.resize_grid(table, grid=(side, side), before=own.shape[0] - side * side)
