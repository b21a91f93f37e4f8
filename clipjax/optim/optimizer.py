"""Optimizers with decoupled decay, per-parameter factors, freezing; made by `clipjax.build`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from clipjax.common import trees
from clipjax.common.exits import ConfigError
from clipjax.optim import USUAL_PATTERNS
from clipjax.optim.low_precision import bfloat16_moments
from clipjax.optim.schedules import Schedule
from clipjax.optim.spikes import skip_spikes

Factors = Sequence[tuple[str, float]]


def make_optimizer(
    name: str,
    params: Any,
    *,
    schedule: Schedule,
    weight_decay: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    clip_norm: float = 0.0,
    skip_spikes_above: float = 0.0,
    decay_factors: Factors,
    learning_rate_factors: Factors,
    layer_decay: float = 1.0,
    moments_dtype: str = "float32",
    seed: int = 0,
) -> optax.GradientTransformation:
    """The optimizer `name`; "adamw" is what the paper trains with: Adam, decoupled decay times the
    learning rate.

    Args:
      name: "adamw", "lion" or "adafactor".
      params: the parameters or their shapes; only names and numbers of layers are read.
      schedule: learning rate by step.
      weight_decay: times a parameter's decay factor; "all weights that are not gains or biases"
        (paper, section 2.5) is what the default factors say.
      beta1, beta2: decay of the first and second moment. Lion's two (Chen et al. 2023). Adafactor:
        of its momentum, and the most that its growing decay of the second moment reaches.
      epsilon: of Adam.
      clip_norm: of the global norm of the trainable gradients; 0 is off.
      skip_spikes_above: leave out updates whose gradient norm is over so many times the usual one,
        see `spikes`; 0 is off.
      decay_factors, learning_rate_factors: (regex, factor); the first match on a parameter's whole
        name wins. A learning rate factor of 0 freezes the parameter: no update, no optimizer state.
      layer_decay: the learning rate of a tower's last block times this for each block before it,
        see `layer_factors`.
      moments_dtype: "float32", or "bfloat16" with stochastic rounding.
      seed: of that rounding.

    Raises:
      ConfigError: a parameter that no regex matches, a regex that matches no parameter, or nothing
        is left to train.
    """
    decay = _by_name(params, decay_factors, where="config.optimizer.decay_factors")
    speed = _by_name(params, learning_rate_factors, where="config.optimizer.learning_rate_factors")
    moments = {
        "adamw": lambda: optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon),
        "lion": lambda: optax.scale_by_lion(b1=beta1, b2=beta2),
        "adafactor": lambda: _adafactor(momentum=beta1, decay_cap=beta2),
    }[name]()
    if moments_dtype == "bfloat16":
        moments = bfloat16_moments(moments, seed=seed)
    transforms = [
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        moments,
        _add_decay(decay, weight_decay),
        _scale_by(speed),
        _scale_by(layer_factors(params, layer_decay)) if layer_decay != 1.0 else optax.identity(),
        optax.scale_by_learning_rate(schedule),
    ]
    optimizer = optax.chain(*transforms)
    if skip_spikes_above:
        optimizer = skip_spikes(optimizer, factor=skip_spikes_above)
    trained = trainable(params, learning_rate_factors)
    if all(jax.tree.leaves(trained)):
        return optimizer
    if not any(jax.tree.leaves(trained)):
        raise ConfigError(
            "config.optimizer.learning_rate_factors: freezes every parameter; give some a factor"
            " above 0"
        )
    labels = jax.tree.map(lambda train: "train" if train else "freeze", trained)
    return optax.partition({"train": optimizer, "freeze": optax.set_to_zero()}, labels)


def trainable(params: Any, learning_rate_factors: Factors) -> Any:
    """Which parameters are trained, a tree of bool: those with a learning rate."""
    factors = _by_name(
        params, learning_rate_factors, where="config.optimizer.learning_rate_factors"
    )
    return jax.tree.map(bool, factors)


def _adafactor(*, momentum: float, decay_cap: float) -> optax.GradientTransformation:
    """Adafactor for vision transformers (Zhai et al. 2022, section 3.3): factored second moment
    whose decay 1 - t^-0.8 is capped, momentum, no relative step sizes, no update clipping."""

    def decay(step: Any, power: Any) -> jax.Array:
        return jnp.minimum(decay_cap, 1.0 - jnp.asarray(step + 1.0, jnp.float32) ** -power)

    rms = optax.scale_by_factored_rms(min_dim_size_to_factor=32, decay_rate_fn=decay)
    return optax.chain(rms, optax.ema(momentum, debias=False))


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
