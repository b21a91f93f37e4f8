"""The one step function: training, planning and tests compile this."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from clipjax.optim import low_precision
from clipjax.optim.schedules import Schedule
from clipjax.parallel import sharding
from clipjax.parallel.mesh import BATCH_AXES
from clipjax.training import averages
from clipjax.training.accumulate import make_gradient
from clipjax.training.objectives import Objective
from clipjax.training.patch_dropout import draw_patches
from clipjax.training.state import TrainState

MAX_SKIPPED_IN_A_ROW = 10  # then the run has diverged, and nothing is updated any more
MAX_LOG_SCALE = math.log(100.0)  # the paper clips the multiplier at 100 (section 2.5)
# Beyond all steps: optimizers fold those into the seed's own key.
STREAMS = {"patches": 2**31, "weights": 2**31 + 1}

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def make_train_step(
    embed: Callable[..., Any],
    scalars: Callable[..., Any],
    *,
    trainable: Any,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    mesh: Mesh,
    micro_batches: int = 1,
    ema_decay: float = 0.0,
    patches: int = 0,
    patch_dropout: float = 0.0,
    seed: int = 0,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """A pure function (state, batch) → (state, metrics), to be jitted with explicit shardings.

    Args:
      embed, scalars: of the model, as `training/forward.py` makes them.
      trainable: tree of bool like the parameters; the others stay as they are, bit for bit.
      objective: what to minimise.
      optimizer: the transformation whose state `TrainState` holds.
      schedule: the same that the optimizer uses, for the log.
      mesh: the batch is split over its `data` and `fsdp` axes.
      micro_batches: parts in which the towers take the batch, see `training/accumulate.py`.
      ema_decay: of the moving average, where the state has one, see `training/averages.py`.
      patches: N, of an image.
      patch_dropout: share of them that the image tower does not see, see `patch_dropout.py`.
      seed: of what is drawn at each step: patches, and the rounding of bfloat16 parameters.

    Returns:
      A step on batches {"image": uint8 [B, H, W, 3], "text": int32 [B, T], "record_id": uint32
      [B]}.
      A step whose loss, gradient or update is not finite updates nothing and is counted. After
      MAX_SKIPPED_IN_A_ROW of them the count only rises, so that whoever looks now and then sees it.
      Metrics are float32 [], but counts, int32 [], and `data/records_hash`, uint32 [], an
      order-sensitive hash of the global batch's record ids.
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
        if patch_dropout:
            key = step_key(seed, state.step, stream="patches")
            rows = len(batch["record_id"])
            kept = draw_patches(key, rows=rows, patches=patches, dropped=patch_dropout)
            batch = batch | {"patches": sharding.constrain_batch(kept, mesh=mesh)}
        # The loss is made in here: towers → image_embed, text_embed float32 [B, E] → objective.
        wide: Any = low_precision.widen(state.params)  # all is computed in float32
        (loss, (metrics, batch_stats)), grads = gradient(wide, state.batch_stats, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, wide)
        params: Any = optax.apply_updates(wide, updates)
        if "logit_scale" in params:
            # The temperature's clamp (paper, section 2.5): after the update, so that the gradient
            # at the bound is not cut off.
            params = {**params, "logit_scale": jnp.minimum(params["logit_scale"], MAX_LOG_SCALE)}
        key = step_key(seed, state.step, stream="weights")
        params = low_precision.round_tree(params, like=state.params, key=key)
        grad_norm, update_norm = optax.tree.norm(grads), optax.tree.norm(updates)
        alive = state.skipped_in_a_row < MAX_SKIPPED_IN_A_ROW
        # Moments that are not finite make updates that are not, of the soundest gradient.
        sound = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(update_norm) & alive
        # A frozen parameter is not even added a zero, which would turn -0.0 into 0.0.
        params = jax.tree.map(
            lambda new, old, train: new if train else old, params, state.params, trainable
        )
        average = state.average
        if average:
            variables = {"params": params, "batch_stats": batch_stats}
            updates_made = state.step - state.skipped
            average = averages.follow(average, variables, decay=ema_decay, updates=updates_made)
        # A select on the devices instead of a branch on the host: nobody waits for the verdict.
        params, batch_stats, average, opt_state = jax.tree.map(
            lambda new, old: jnp.where(sound, new, old),
            (params, batch_stats, average, opt_state),
            (state.params, state.batch_stats, state.average, state.opt_state),
        )
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            average=average,
            opt_state=opt_state,
            skipped=state.skipped + ~sound,
            skipped_in_a_row=jnp.where(sound, 0, state.skipped_in_a_row + 1),
        )
        spikes = optax.tree.get(opt_state, "spikes_skipped")
        not_taken = state.skipped + (0 if spikes is None else spikes)
        logged = {
            "train/loss": loss,
            **{f"train/{name}": value for name, value in scalars(state.params).items()},
            "train/grad_norm": grad_norm,
            "train/update_norm": update_norm,
            "train/learning_rate": schedule(state.step - not_taken),
            "train/skipped": new_state.skipped,
            "train/skipped_in_a_row": new_state.skipped_in_a_row,
            **({} if spikes is None else {"train/spikes_skipped": spikes}),
            **{f"train/{name}": value for name, value in metrics.items()},
            "data/records_hash": records_hash(batch["record_id"]),
        }
        return new_state, logged

    return train_step


def step_key(seed: int, step: jax.Array, *, stream: str) -> jax.Array:
    """The key of what a step draws for one purpose: of seed and step alone, so that resumes draw
    the same."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), STREAMS[stream]), step)


def records_hash(record_ids: jax.Array) -> jax.Array:
    """An order-sensitive hash, uint32 [], of record ids uint32 [B]: equal batches, equal hash."""
    rows = jnp.arange(record_ids.shape[0], dtype=jnp.uint32)
    mixed = (record_ids ^ (rows * jnp.uint32(0x9E3779B9))) * jnp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)
