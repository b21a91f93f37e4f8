"""What training carries from step to step, and its initialisation directly in its sharding."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct


class TrainState(struct.PyTreeNode):
    """Step count, the model's variables and optimizer state.

    Attributes:
      step: int32 [], finished optimizer steps.
      params: the model's parameter tree.
      batch_stats: BatchNorm's running averages, float32; {} without BatchNorm.
      opt_state: optax's state for them.
      skipped: int32 [], steps without an update because something was not finite.
      skipped_in_a_row: int32 [], of these the last ones; see `training/step.py`.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    skipped: jax.Array
    skipped_in_a_row: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """What the model is applied to: `params` and `batch_stats`."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def make_init(
    init_variables: Callable[[jax.Array], Any], *, optimizer: optax.GradientTransformation
) -> Callable[[jax.Array], TrainState]:
    """A function key → TrainState; evaluate its shape, or jit it with `out_shardings`."""

    def init(key: jax.Array) -> TrainState:
        variables = init_variables(key)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, params, batch_stats, optimizer.init(params), zero, zero)

    return init
