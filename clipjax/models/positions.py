"""Resizing learned position tables when weights meet another image size or context length."""

import math

import jax
import jax.numpy as jnp

from clipjax.common.exits import ConfigError


def resize_grid(table: jax.Array, *, grid: tuple[int, int]) -> jax.Array:
    """A vision table [1 + N, D] for a grid of (rows, columns) patches → [1 + rows · columns, D].

    The class token's row is kept. The rest, a square grid in row-major order, is interpolated
    bicubically with antialiasing in float32 and cast back: what PyTorch's
    `interpolate(mode="bicubic", antialias=True)` gives. The same grid returns the table itself.
    Raises ConfigError if the table's grid is not square.
    """
    patches, width = table.shape[0] - 1, table.shape[1]
    side = math.isqrt(patches)
    if side * side != patches:
        raise ConfigError(
            f"position table: {patches} patches are not a square grid; "
            "give one with a class token and n × n patches"
        )
    if grid == (side, side):
        return table
    old = table[1:].reshape(side, side, width).astype(jnp.float32)
    new = jax.image.resize(old, (*grid, width), method="cubic", antialias=True)
    new = new.reshape(-1, width).astype(table.dtype)
    return jnp.concatenate([table[:1], new])


def resize_sequence(table: jax.Array, *, length: int) -> jax.Array:
    """A text table [T, D] → [length, D], interpolated linearly in float32 and cast back.

    Without antialiasing, as open_clip does. The same length returns the table itself.
    """
    if length == table.shape[0]:
        return table
    shape = (length, table.shape[1])
    new = jax.image.resize(table.astype(jnp.float32), shape, method="linear", antialias=False)
    return new.astype(table.dtype)
