"""Starting a run from another run's weights: which parameters to take, and how to make them fit."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from clipjax.common import trees
from clipjax.common.exits import ConfigError
from clipjax.models import positions, transformer


def initialise_from(
    params: Any, given: Any, *, towers: Sequence[str], resize_positions: bool, where: str
) -> Any:
    """`params` with the given towers' weights in place of its own, in its own shardings.

    Layers may be stacked for a scan on one side and single on the other. `logit_scale` is taken
    too. With `resize_positions` a position table of another size is interpolated: bicubic over the
    image grid, linear over text.

    Args:
      params: sharded arrays, of the new run.
      given: host arrays, of the other run.
      towers: "vision", "text" or both.
      resize_positions: whether to.
      where: the config key, for errors.

    Raises:
      ConfigError: a parameter is missing or its shape differs; names the first.
    """
    stacked = any("/blocks/" in name for name, _ in trees.named_leaves(params))
    given = transformer.unstack_blocks(given)
    given = transformer.stack_blocks(given) if stacked else given
    found = dict(trees.named_leaves(given))

    def take(name: str, own: jax.Array) -> jax.Array:
        if "/" in name and name.split("/")[0] not in towers:
            return own
        if name not in found:
            raise ConfigError(f"{where}: has no parameter {name}; is it the same kind of model?")
        value = found[name]
        if resize_positions and name == "vision/position_embedding":
            side = round((own.shape[0] - 1) ** 0.5)
            value = positions.resize_grid(value, grid=(side, side))
        elif resize_positions and name == "text/position_embedding":
            value = positions.resize_sequence(value, length=own.shape[0])
        if value.shape != own.shape:
            raise ConfigError(f"{where}: {name} is {value.shape} there, {own.shape} in this model")
        value = np.asarray(value, own.dtype)
        return jax.make_array_from_callback(own.shape, own.sharding, lambda index: value[index])

    return trees.map_with_names(take, params)
