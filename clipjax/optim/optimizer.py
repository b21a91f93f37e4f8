"""AdamW with decoupled decay, per-parameter factors and freezing; `clipjax.build` makes one."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from clipjax.common import trees
from clipjax.optim.schedules import Schedule

Factors = Sequence[tuple[str, float]]


def make_optimizer(
    params: Any,
    *,
    schedule: Schedule,
    weight_decay: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    clip_norm: float = 0.0,
    decay_factors: Factors,
    learning_rate_factors: Factors,
) -> optax.GradientTransformation:
    """AdamW as the paper trains with: Adam, decoupled decay times the learning rate.

    Args:
      params: the parameters or their shapes; only names are read.
      schedule: learning rate by step.
      weight_decay: times a parameter's decay factor; "all weights that are not gains or biases"
        (paper, section 2.5) is what the default factors say.
      beta1, beta2, epsilon: of Adam.
      clip_norm: of the global norm of the trainable gradients; 0 is off.
      decay_factors, learning_rate_factors: (regex, factor); the first match on a parameter's whole
        name wins. A learning rate factor of 0 freezes the parameter: no update, no optimizer state.

    Raises:
      ConfigError: a parameter that no regex matches.
    """
    decay = _by_name(params, decay_factors, where="config.optimizer.decay_factors")
    speed = _by_name(params, learning_rate_factors, where="config.optimizer.learning_rate_factors")
    transforms = [
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon),
        _add_decay(decay, weight_decay),
        _scale_by(speed),
        optax.scale_by_learning_rate(schedule),
    ]
    optimizer = optax.chain(*transforms)
    if all(jax.tree.leaves(speed)):
        return optimizer
    labels = jax.tree.map(lambda factor: "train" if factor else "freeze", speed)
    return optax.partition({"train": optimizer, "freeze": optax.set_to_zero()}, labels)


def _by_name(params: Any, factors: Factors, *, where: str) -> Any:
    return trees.map_with_names(
        lambda name, _: trees.first_match(name, rules=factors, where=where), params
    )


def _add_decay(factors: Any, weight_decay: float) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, params: _map_known(
            lambda u, p, factor: (
                u + jnp.asarray(weight_decay * factor, u.dtype) * p if factor else u
            ),
            updates,
            params,
            factors,
        )
    )


def _scale_by(factors: Any) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, _: _map_known(
            lambda u, factor: u if factor == 1.0 else u * factor, updates, factors
        )
    )


def _map_known(function: Any, updates: Any, *rest: Any) -> Any:
    """`jax.tree.map` that leaves alone what a partition has masked."""
    is_masked = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731
    return jax.tree.map(
        lambda u, *others: u if is_masked(u) else function(u, *others),
        updates,
        *rest,
        is_leaf=is_masked,
    )
