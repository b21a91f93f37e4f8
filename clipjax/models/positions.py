"""Resizing learned position tables when weights meet another image size or context length."""

import math

import jax
import jax.numpy as jnp

from clipjax.common.exits import ConfigError


def resize_grid(table: jax.Array, *, grid: tuple[int, int], before: int = 1) -> jax.Array:
    """A vision table [before + N, D] for (rows, columns) patches → [before + rows · columns, D].

    Rows before the grid are kept: a class token's, or the mean's of a ResNet's attention pool; 0
    without. The rest, a square grid in row-major order, is interpolated
    bicubically with antialiasing in float32 and cast back: what PyTorch's
    `interpolate(mode="bicubic", antialias=True)` gives. The same grid returns the table itself.
    Raises ConfigError if the table's grid is not square.
    """
    patches, width = table.shape[0] - before, table.shape[1]
    side = math.isqrt(patches)
    if side * side != patches:
        raise ConfigError(
            f"position table: {patches} patches are not a square grid; "
            f"give one with n × n patches after {before} other tokens"
        )
    if grid == (side, side):
        return table
    old = table[before:].reshape(side, side, width).astype(jnp.float32)
    new = jax.image.resize(old, (*grid, width), method="cubic", antialias=True)
    new = new.reshape(-1, width).astype(table.dtype)
    return jnp.concatenate([table[:before], new])


def resize_sequence(table: jax.Array, *, length: int) -> jax.Array:
    """A text table [T, D] → [length, D], interpolated linearly in float32 and cast back.

    Without antialiasing, as open_clip does. The same length returns the table itself.
    """
    if length == table.shape[0]:
        return table
    shape = (length, table.shape[1])
    new = jax.image.resize(table.astype(jnp.float32), shape, method="linear", antialias=False)
    return new.astype(table.dtype)
