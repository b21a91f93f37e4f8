"""Optimizers with decoupled decay, per-parameter factors, freezing; made by `clipjax.build`."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from clipjax.common import registry, trees
from clipjax.common.exits import ConfigError
from clipjax.optim import OPTIMIZERS, USUAL_PATTERNS, Factors, OptimizerSettings
from clipjax.optim.low_precision import bfloat16_moments
from clipjax.optim.schedules import Schedule
from clipjax.optim.spikes import skip_spikes

SPEED = "config.optimizer.learning_rate_factors"


def make_optimizer(
    settings: OptimizerSettings, params: Any, *, schedule: Schedule, seed: int = 0
) -> optax.GradientTransformation:
    """The optimizer that the settings describe; "adamw" is what the paper trains with: Adam, with
    decoupled decay times the learning rate.

    Args:
      settings: see `OptimizerSettings`.
      params: the parameters or their shapes; only names and numbers of layers are read.
      schedule: learning rate by step.
      seed: random seed for the stochastic rounding of moments.

    Raises:
      ConfigError: a parameter that no regex matches, a regex that matches no parameter, or nothing
        is left to train.
    """
    decay = _by_name(params, settings.decay_factors, where="config.optimizer.decay_factors")
    speed = _by_name(params, settings.learning_rate_factors, where=SPEED)
    moments = registry.lookup(settings.name, table=OPTIMIZERS, kind="optimizer.name")(settings)
    if settings.moments_dtype == "bfloat16":
        moments = bfloat16_moments(moments, seed=seed)
    clip, layers = settings.clip_norm, layer_factors(params, settings.layer_decay)
    optimizer = optax.chain(
        optax.clip_by_global_norm(clip) if clip else optax.identity(),
        moments,
        _add_decay(decay, settings.weight_decay),
        _scale_by(speed),
        _scale_by(layers) if settings.layer_decay != 1.0 else optax.identity(),
        optax.scale_by_learning_rate(schedule),
    )
    if settings.skip_spikes_above:
        optimizer = skip_spikes(optimizer, factor=settings.skip_spikes_above)
    trained = trainable(params, settings.learning_rate_factors)
    if all(jax.tree.leaves(trained)):
        return optimizer
    if not any(jax.tree.leaves(trained)):
        raise ConfigError(f"{SPEED}: freezes every parameter; give some a factor above 0")
    labels = jax.tree.map(lambda train: "train" if train else "freeze", trained)
    return optax.partition({"train": optimizer, "freeze": optax.set_to_zero()}, labels)


def trainable(params: Any, learning_rate_factors: Factors) -> Any:
    """Which parameters are trained, a tree of bool: those with a learning rate."""
    return jax.tree.map(bool, _by_name(params, learning_rate_factors, where=SPEED))


def adam(settings: OptimizerSettings) -> optax.GradientTransformation:
    """Adam's moments, without decay and learning rate."""
    return optax.scale_by_adam(b1=settings.beta1, b2=settings.beta2, eps=settings.epsilon)


def lion(settings: OptimizerSettings) -> optax.GradientTransformation:
    """The sign of Lion's momentum."""
    return optax.scale_by_lion(b1=settings.beta1, b2=settings.beta2)


def adafactor(settings: OptimizerSettings) -> optax.GradientTransformation:
    """Adafactor for vision transformers (Zhai et al. 2022, section 3.3): factored second moment
    whose decay 1 - t^-0.8 is capped, momentum, no relative step sizes, no update clipping."""

    def decay(step: Any, power: Any) -> jax.Array:
        return jnp.minimum(settings.beta2, 1.0 - jnp.asarray(step + 1.0, jnp.float32) ** -power)

    rms = optax.scale_by_factored_rms(min_dim_size_to_factor=32, decay_rate_fn=decay)
    return optax.chain(rms, optax.ema(settings.beta1, debias=False))


def layer_factors(params: Any, decay: float) -> Any:
    """The learning rate factor of each parameter by depth: decay^(n + 1 - depth) in n blocks.

    Depth 0 is all before a tower's blocks (embeddings, `ln_pre`), i the i-th block, n + 1 all after
    them and the scalars (Bao et al. 2022, "BEiT"). A stacked leaf of scanned blocks gets an array
    [n, 1, ...]. Towers without blocks get 1.
    """
    depths = {
        tower: _blocks(leaves) for tower, leaves in params.items() if isinstance(leaves, Mapping)
    }

    def factor(name: str, leaf: Any) -> Any:
        tower, *rest = name.split("/")
        count = depths.get(tower, 0)
        if not count or not rest:
            return 1.0
        if rest[0] == "blocks":
            each = [decay ** (count - layer) for layer in range(count)]
            return jnp.asarray(each, jnp.float32).reshape(count, *[1] * (leaf.ndim - 1))
        if block := re.fullmatch(r"block_(\d+)", rest[0]):
            return decay ** (count - int(block[1]))
        before = rest[0] == "ln_pre" or "embedding" in rest[0]
        return decay ** (count + 1) if before else 1.0

    return trees.map_with_names(factor, params)


def _blocks(tower: Mapping[str, Any]) -> int:
    """The number of blocks of a tower, stacked or not."""
    if "blocks" in tower:
        return jax.tree.leaves(tower["blocks"])[0].shape[0]
    return sum(key.startswith("block_") for key in tower)


def _by_name(params: Any, factors: Factors, *, where: str) -> Any:
    names = [name for name, _ in trees.named_leaves(params)]
    own = [pattern for pattern, _ in factors if pattern not in USUAL_PATTERNS]
    trees.check_matches(own, names=names, where=where)
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
            lambda u, factor: (
                u if isinstance(factor, float) and factor == 1.0 else (u * factor).astype(u.dtype)
            ),
            updates,
            factors,
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
