"""What training carries from step to step, and its initialisation directly in its sharding."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct


class TrainState(struct.PyTreeNode):
    """Step count, parameters and optimizer state.

    Attributes:
      step: int32 [], finished optimizer steps.
      params: the model's parameter tree.
      opt_state: optax's state for them.
      skipped: int32 [], steps without an update because something was not finite.
      skipped_in_a_row: int32 [], of these the last ones; see `training/step.py`.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    skipped: jax.Array
    skipped_in_a_row: jax.Array


def make_init(
    init_params: Callable[[jax.Array], Any], *, optimizer: optax.GradientTransformation
) -> Callable[[jax.Array], TrainState]:
    """A function key → TrainState; evaluate its shape, or jit it with `out_shardings`."""

    def init(key: jax.Array) -> TrainState:
        params = init_params(key)
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, params, optimizer.init(params), zero, zero)

    return init
