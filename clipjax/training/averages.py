"""A moving average of the weights, which evaluation and export take instead of the newest ones.

Polyak's average, exponential: noise of the last steps goes, at the price of one more float32 copy.
Part of the state, so that it is saved and resumed; `training/step.py` moves it.
"""

from typing import Any

import jax
import jax.numpy as jnp


def begin(variables: Any) -> Any:
    """The average of these alone: float32 copies, in buffers of their own, as donation needs."""
    return jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), variables)


def follow(average: Any, variables: Any, *, decay: float, updates: jax.Array) -> Any:
    """The average one update further.

    What equals its average, as frozen parameters do, stays bit for bit.

    Args:
      average: float32 tree like the variables.
      variables: parameters and BatchNorm's averages after the update, of any dtype.
      decay: share of the old average that is kept; at first less, (1 + n) / (10 + n) after n
        updates, or the initial weights would stay in it for long (as TensorFlow and timm begin).
      updates: int32 [], n.
    """
    n = jnp.asarray(updates, jnp.float32)
    share = 1 - jnp.minimum(decay, (1 + n) / (10 + n))

    def move(old: jax.Array, new: jax.Array) -> jax.Array:
        new = new.astype(jnp.float32)
        return jnp.where(new == old, old, old + share * (new - old))

    return jax.tree.map(move, average, variables)
