"""State in bfloat16 without bias: stochastic rounding of optimizer moments and of weights.

The paper saves memory with "half-precision Adam statistics" and "half-precision stochastically
rounded text encoder weights" (section 2.5). A bfloat16 keeps 8 bits: a change below a 512th of a
value is lost when rounded to nearest, every step again. Rounded up or down at random, in
proportion to the distance, it arrives on average. The random bits are a function of the step, so
that a resumed run draws the same.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from clipjax.common import trees


class Bfloat16State(NamedTuple):
    """The wrapped transformation's state, its float32 arrays in bfloat16.

    Attributes:
      count: int32 [], updates so far; the random bits derive from it.
      inner: the wrapped state.
    """

    count: jax.Array
    inner: Any


def stochastic_round(x: jax.Array, key: jax.Array) -> jax.Array:
    """float32 → bfloat16, up or down at random with the expectation of x; NaN and ±inf stay.

    Args:
      x: float32, any shape.
      key: of jax.random; equal keys round equally.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    rounded = jax.lax.bitcast_convert_type((bits + noise) & jnp.uint32(0xFFFF0000), jnp.float32)
    # From a finite number the carry may reach infinity only past the largest bfloat16.
    return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)


def round_tree(tree: Any, *, like: Any, key: jax.Array) -> Any:
    """The leaves of `tree` that are bfloat16 in `like`, rounded at random; the others as they are.

    Args:
      tree: float32 values.
      like: a tree of the same structure with the dtypes wanted.
      key: a leaf's bits derive from it and the leaf's place in the tree.
    """
    leaves, structure = jax.tree.flatten(tree)
    wanted = [leaf.dtype for leaf in structure.flatten_up_to(like)]
    return structure.unflatten(
        stochastic_round(leaf, jax.random.fold_in(key, number))
        if dtype == jnp.bfloat16 and leaf.dtype == jnp.float32
        else leaf
        for number, (leaf, dtype) in enumerate(zip(leaves, wanted, strict=True))
    )


def bfloat16_moments(
    transform: optax.GradientTransformation, *, seed: int = 0
) -> optax.GradientTransformation:
    """`transform` with its float32 state stored in bfloat16; it computes in float32 as before.

    Half of the optimizer's memory. Scalars stay float32.
    """

    def init(params: Any) -> Bfloat16State:
        return Bfloat16State(jnp.zeros((), jnp.int32), _narrow(transform.init(params)))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, inner = transform.update(updates, widen(state.inner), params)
        key = jax.random.fold_in(jax.random.key(seed), state.count)
        inner = round_tree(inner, like=state.inner, key=key)
        return updates, Bfloat16State(state.count + 1, inner)

    return optax.GradientTransformation(init, update)


def narrow_weights(params: Any, patterns: Sequence[str], *, where: str) -> Any:
    """The parameters, those whose name matches a pattern in bfloat16; scalars stay as they are.

    Args:
      params: float32, new: rounding to the nearest is no bias yet.
      patterns: regexes of whole names, (r"text/.*",).
      where: the config key, for errors.

    Raises:
      ConfigError: a pattern matches no parameter.
    """
    names = [name for name, _ in trees.named_leaves(params)]
    trees.check_matches(patterns, names=names, where=where)

    def narrow(name: str, x: jax.Array) -> jax.Array:
        chosen = x.ndim and any(re.fullmatch(pattern, name) for pattern in patterns)
        return x.astype(jnp.bfloat16) if chosen else x

    return trees.map_with_names(narrow, params)


def widen(tree: Any) -> Any:
    """bfloat16 arrays as float32, in which everything is computed; the others as they are."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, tree)


def _narrow(tree: Any) -> Any:
    """Float32 arrays as bfloat16; an initial state is zeros, which need no rounding."""
    return jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if x.ndim and x.dtype == jnp.float32 else x, tree
    )
