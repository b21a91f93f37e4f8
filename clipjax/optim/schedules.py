"""Learning rate over steps: linear warm-up, then a shape; made by `clipjax.build`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Schedule = Callable[[Any], jax.Array]


def make_schedule(name: str, *, peak: float, total_steps: int, warmup_steps: int) -> Schedule:
    """The learning rate of each step, float32 [], a function of the number of finished steps.

    Warm-up is linear and its first step is already one part of the way up, so that no step is spent
    at zero. "cosine" then falls to zero at `total_steps`; "constant" stays. The paper names warm-up
    (2,000 steps) and cosine decay, not their end points; these are open_clip's.
    """
    after = {"cosine": _cosine, "constant": lambda _: jnp.float32(1.0)}[name]

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        warm = (step + 1) / max(warmup_steps, 1)
        progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
        return peak * jnp.where(step < warmup_steps, warm, after(jnp.clip(progress, 0.0, 1.0)))

    return schedule


def _cosine(progress: jax.Array) -> jax.Array:
    return 0.5 * (1 + jnp.cos(jnp.pi * progress))
