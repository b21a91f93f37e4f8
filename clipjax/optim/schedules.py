"""Learning rate over steps: warm-up, a shape, perhaps a cool-down; made by `clipjax.build`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.common import registry
from clipjax.optim import SCHEDULES

Schedule = Callable[[Any], jax.Array]


def make_schedule(
    name: str,
    *,
    peak: float,
    total_steps: int,
    warmup_steps: int,
    cooldown_steps: int = 0,
    timescale_steps: int = 1,
    scheduled: Callable[[Any], Any] = lambda step: step,
) -> Schedule:
    """The learning rate of each step, float32 [], a function of the number of finished steps.

    Warm-up is linear and its first step is already one part of the way up, so that no step is spent
    at zero. "cosine" then falls to zero at `total_steps`; "constant" stays; "rsqrt" falls with the
    square root of the steps after warm-up over `timescale_steps` (Zhai et al. 2022, "Scaling vision
    transformers", section 3.4 and appendix). A cool-down is linear and ends at zero: the last
    `cooldown_steps` of a run may branch off from any checkpoint of a longer one.
    The paper names warm-up (2,000 steps) and cosine decay, not their end points; these are
    open_clip's. `scheduled` is applied to the step first: of a stage with a batch of its own.
    """
    shape = registry.lookup(name, table=SCHEDULES, kind="schedule.name")

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.asarray(scheduled(step), jnp.float32)
        warm = (step + 1) / max(warmup_steps, 1)
        after = shape(
            jnp.maximum(step - warmup_steps, 0.0),
            length=max(total_steps - warmup_steps, 1),
            timescale=timescale_steps,
        )
        cool = jnp.clip((total_steps - step) / max(cooldown_steps, 1), 0.0, 1.0)
        return peak * jnp.where(step < warmup_steps, warm, after) * (cool if cooldown_steps else 1)

    return schedule


def cosine(step: jax.Array, *, length: int, timescale: int) -> jax.Array:
    """Fall from 1 to 0 in `length` steps, along half a cosine wave."""
    del timescale
    return 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / length, 1.0)))


def constant(step: jax.Array, *, length: int, timescale: int) -> jax.Array:
    """1 at every step."""
    del length, timescale
    return jnp.ones_like(step)


def rsqrt(step: jax.Array, *, length: int, timescale: int) -> jax.Array:
    """1 / √(1 + step / timescale)."""
    del length
    return (1 + step / timescale) ** -0.5
