"""What training carries from step to step, and its initialisation directly in its sharding."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from clipjax.optim import low_precision
from clipjax.training import averages


class TrainState(struct.PyTreeNode):
    """Step count, the model's variables and optimizer state.

    Attributes:
      step: int32 [], finished optimizer steps.
      params: the model's parameter tree, float32 but for what `optimizer.bfloat16_weights` names.
      batch_stats: BatchNorm's running averages, float32; {} without BatchNorm.
      average: moving average of both, float32, see `training/averages.py`; {} without one.
      opt_state: optax's state for them.
      skipped: int32 [], steps without an update because something was not finite.
      skipped_in_a_row: int32 [], of these the last ones; see `training/step.py`.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    average: Any
    opt_state: Any
    skipped: jax.Array
    skipped_in_a_row: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """What the model is applied to: `params` and `batch_stats`."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def to_evaluate(self) -> dict[str, Any]:
        """The variables that are evaluated: their moving average, if there is one."""
        return self.average or self.variables


def make_init(
    init_variables: Callable[[jax.Array], Any],
    *,
    optimizer: optax.GradientTransformation,
    bfloat16_weights: Sequence[str] = (),
    average: bool = False,
) -> Callable[[jax.Array], TrainState]:
    """A function key → TrainState; evaluate its shape, or jit it with `out_shardings`.

    `bfloat16_weights` are regexes of the parameters stored so; the optimizer sees them as float32,
    see `training/step.py`. With `average` a moving average of the variables is kept.
    """

    def init(key: jax.Array) -> TrainState:
        variables = init_variables(key)
        params = low_precision.narrow_weights(
            variables["params"], bfloat16_weights, where="config.optimizer.bfloat16_weights"
        )
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.get("batch_stats", {}),
            average={},
            opt_state=optimizer.init(low_precision.widen(params)),
            skipped=jnp.zeros((), jnp.int32),
            skipped_in_a_row=jnp.zeros((), jnp.int32),
        )
        return state.replace(average=averages.begin(state.variables)) if average else state

    return init
