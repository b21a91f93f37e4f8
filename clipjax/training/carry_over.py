"""The state of one stage of a run as the next one's: position tables in their new sizes.

Parameters are interpolated as for fine-tuning (`models/positions.py`: bicubic over images, linear
over text). Of the optimizer's state of a table, all is interpolated linearly: the weights of a mean
are positive, so that no second moment turns negative, and first moments stay below its root.
"""

import functools
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.common import trees
from clipjax.common.exits import ConfigError
from clipjax.models import positions

TABLE = "position_embedding"


def carry_over(state: Any, abstract: Any) -> Any:
    """The state with the shapes and shardings of `abstract`; `state` is used up.

    Raises:
      ConfigError: something else than a position table has another shape; names the first.
    """
    old = [leaf.shape for leaf in jax.tree.leaves(state)]
    if old == [leaf.shape for leaf in jax.tree.leaves(abstract)]:
        return state
    shapes = jax.tree.map(lambda leaf: leaf.shape, abstract)
    fit = functools.partial(_fit_tree, shapes=shapes)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some donated buffers")  # the tables', too small
        return jax.jit(fit, out_shardings=shardings, donate_argnums=0)(state)


def _fit_tree(state: Any, *, shapes: Any) -> Any:
    return trees.map_with_names(
        lambda name, leaf, shape: leaf if leaf.shape == shape else _fit(name, leaf, shape),
        state,
        shapes,
    )


def _fit(name: str, leaf: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A table, or an optimizer's array for one, in a new size."""
    axes = [axis for axis, (a, b) in enumerate(zip(leaf.shape, shape, strict=False)) if a != b]
    if not name.endswith(TABLE) or leaf.ndim != len(shape) or len(axes) != 1:
        raise ConfigError(
            f"config.stages: {name} is {leaf.shape} in one stage and {shape} in the next; only"
            " position tables can be carried into another size"
        )
    image, length = "vision" in name.split("/"), shape[axes[0]]
    if not image:
        resize = functools.partial(positions.resize_sequence, length=length)
        resize = resize if _is_weight(name) else functools.partial(_mean_sequence, length=length)
    else:
        side = math.isqrt(length)
        grid = {"grid": (side, side), "before": length - side * side}
        resize = functools.partial(positions.resize_grid, **grid)
        resize = resize if _is_weight(name) else functools.partial(_mean_grid, **grid)
    table = jnp.moveaxis(leaf, axes[0], 0)
    resized = resize(table.reshape(len(table), -1)).reshape(length, *table.shape[1:])
    return jnp.moveaxis(resized, 0, axes[0])


def _is_weight(name: str) -> bool:
    return name.split("/")[0] in ("params", "average")


def _mean_sequence(table: jax.Array, *, length: int) -> jax.Array:
    resized = jax.image.resize(
        table.astype(jnp.float32), (length, table.shape[1]), method="linear", antialias=True
    )
    return resized.astype(table.dtype)


def _mean_grid(table: jax.Array, *, grid: tuple[int, int], before: int) -> jax.Array:
    side = math.isqrt(len(table) - before)
    old = table[before:].reshape(side, side, -1).astype(jnp.float32)
    new = jax.image.resize(old, (*grid, old.shape[2]), method="linear", antialias=True)
    return jnp.concatenate([table[:before], new.reshape(-1, old.shape[2]).astype(table.dtype)])
