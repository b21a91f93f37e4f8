"""The one step function: training, planning and tests compile this."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from clipjax.optim.schedules import Schedule
from clipjax.parallel.mesh import BATCH_AXES
from clipjax.training.accumulate import make_gradient
from clipjax.training.objectives import Objective
from clipjax.training.state import TrainState

MAX_LOG_SCALE = math.log(100.0)  # the paper clips the multiplier at 100 (section 2.5)

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def make_train_step(
    embed: Callable[..., Any],
    scalars: Callable[..., Any],
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    mesh: Mesh,
    micro_batches: int = 1,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """A pure function (state, batch) → (state, metrics), to be jitted with explicit shardings.

    Args:
      embed: embed(params, image, text) → {"image_embed", "text_embed"} float32 [B, E].
      scalars: scalars(params) → {"logit_scale", perhaps "logit_bias"}, multiplier and bias.
      objective: what to minimise.
      optimizer: the transformation whose state `TrainState` holds.
      schedule: the same that the optimizer uses, for the log.
      mesh: the batch is split over its `data` and `fsdp` axes.
      micro_batches: parts in which the towers take the batch, see `training/accumulate.py`.

    Returns:
      A step on batches {"image": uint8 [B, H, W, 3], "text": int32 [B, T], "record_id": uint32
      [B]}.
      Metrics are float32 [], but `data/records_hash`, uint32 [], an order-sensitive hash of the
      global batch's record ids.
    """

    gradient = make_gradient(
        embed,
        scalars,
        objective=objective,
        micro_batches=micro_batches,
        mesh=mesh,
        batch_axes=BATCH_AXES,
    )

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        (loss, metrics), grads = gradient(state.params, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        params = {**params, "logit_scale": jnp.minimum(params["logit_scale"], MAX_LOG_SCALE)}
        logged = {
            "train/loss": loss,
            **{f"train/{name}": value for name, value in scalars(state.params).items()},
            "train/grad_norm": optax.tree.norm(grads),
            "train/learning_rate": schedule(state.step),
            **{f"train/{name}": value for name, value in metrics.items()},
            "data/records_hash": records_hash(batch["record_id"]),
        }
        return TrainState(state.step + 1, params, opt_state), logged

    return train_step


def records_hash(record_ids: jax.Array) -> jax.Array:
    """An order-sensitive hash, uint32 [], of record ids uint32 [B]: equal batches, equal hash."""
    rows = jnp.arange(record_ids.shape[0], dtype=jnp.uint32)
    mixed = (record_ids ^ (rows * jnp.uint32(0x9E3779B9))) * jnp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)
