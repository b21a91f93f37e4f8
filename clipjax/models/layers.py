"""Small layers shared by both towers: activations, LayerNorm, dense layers, initialisers."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Initializer = Callable[..., jax.Array]

LAYER_NORM_EPSILON = 1e-5  # PyTorch's default, which the released models use; Flax's is 1e-6


def quick_gelu(x: jax.Array) -> jax.Array:
    """x · sigmoid(1.702 x), the released models' activation. Any shape; dtype kept."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: jax.Array) -> jax.Array:
    """The exact (erf) GELU, as PyTorch's `nn.GELU`. Any shape; dtype kept."""
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": gelu,
}


def l2_normalize(x: jax.Array) -> jax.Array:
    """x divided by its Euclidean norm over the last axis, computed and returned in float32."""
    x = x.astype(jnp.float32)
    # The small constant keeps value and gradient finite for an all-zero row.
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-24)


# Statistics and scaling in float32 whatever the dtype; only the result is cast to `dtype`.
# The two-pass variance, because E[x²] − E[x]² cancels when the mean is large.
LayerNorm = functools.partial(nn.LayerNorm, epsilon=LAYER_NORM_EPSILON, use_fast_variance=False)


class Linear(nn.Module):
    """A matrix product without bias: `kernel` [D, E]. Returns float32 [..., E].

    The projection into the joint space: operands in `dtype`, sums kept in float32, because the
    embeddings are normalised in float32 next.
    """

    features: int
    kernel_init: Initializer
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        return jnp.einsum(
            "...D,DE->...E",
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )


class Mlp(nn.Module):
    """Dense to `hidden` features, activation, dense back. [B, T, D] → [B, T, D] in `dtype`."""

    hidden: int
    activation: str
    up_init: Initializer
    down_init: Initializer
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = functools.partial(nn.Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        width = x.shape[-1]
        x = dense(self.hidden, kernel_init=self.up_init, name="up")(x)  # [B, T, F]
        x = ACTIVATIONS[self.activation](x)
        return dense(width, kernel_init=self.down_init, name="down")(x)  # [B, T, D]
