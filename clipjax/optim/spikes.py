"""Leaving out updates whose gradient is far larger than usual; `optimizer` wraps others in it.

One batch of broken pairs can throw a run off for thousands of steps. The gradient's norm shows it
before any harm is done (MaxText and OLMo skip such steps, too, by their loss).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

MEMORY = 128  # updates that the running mean is over, about
WARM_UP = 32  # updates before it is trusted


class SpikesState(NamedTuple):
    """The wrapped optimizer's state, and the running mean."""

    inner: Any
    usual_norm: jax.Array  # float32 []
    taken: jax.Array  # int32 [], updates that went into it
    spikes_skipped: jax.Array  # int32 []


def skip_spikes(
    inner: optax.GradientTransformation, *, factor: float
) -> optax.GradientTransformation:
    """`inner`, but an update whose gradient norm is over `factor` times the usual one changes
    nothing: neither parameters nor moments.

    Each one left out still raises the usual norm a little, by at most `factor`, so that gradients
    that stay large are taken in the end.
    """

    def init(params: Any) -> SpikesState:
        zero = jnp.zeros([], jnp.int32)
        return SpikesState(inner.init(params), jnp.zeros([], jnp.float32), zero, zero)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, SpikesState]:
        norm = optax.tree.norm(updates).astype(jnp.float32)
        limit = factor * state.usual_norm
        spike = (state.taken >= WARM_UP) & (norm > limit)
        weight = 1.0 / jnp.minimum(state.taken + 1, MEMORY).astype(jnp.float32)
        usual = state.usual_norm + weight * (jnp.where(spike, limit, norm) - state.usual_norm)
        applied, inner_state = inner.update(updates, state.inner, params)
        applied = jax.tree.map(lambda u: jnp.where(spike, jnp.zeros_like(u), u), applied)
        kept = jax.tree.map(lambda new, old: jnp.where(spike, old, new), inner_state, state.inner)
        return applied, SpikesState(kept, usual, state.taken + 1, state.spikes_skipped + spike)

    return optax.GradientTransformation(init, update)
