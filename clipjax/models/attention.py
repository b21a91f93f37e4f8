"""Multi-head self-attention, used by the blocks of both towers."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from clipjax.models.layers import Initializer


def causal_mask(length: int) -> jax.Array:
    """bool [T, S], True where position T may look at position S (S not after T)."""
    return jnp.tril(jnp.ones((length, length), dtype=bool))


def dot_product_attention(
    query: jax.Array, *, key: jax.Array, value: jax.Array, mask: jax.Array | None
) -> jax.Array:
    """softmax(query · keyᵀ / √K) · value for query, key, value [B, H, T, K]; same shape and dtype.

    Scores are summed and normalised in float32. `mask` is bool [T, S], True = may look.
    """
    query = query * query.shape[-1] ** -0.5
    scores = jnp.einsum("BHTK,BHSK->BHTS", query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)  # [B, H, T, S]
    return jnp.einsum("BHTS,BHSK->BHTK", weights, value)


class HeadProjection(nn.Module):
    """Dense from width D straight to heads: `kernel` [D, H, K], `bias` [H, K].

    [B, T, D] → [B, H, T, K]. Query, key and value each have their own, because a packed one
    needs a reshape that costs a layout copy on TPU.
    """

    heads: int
    kernel_init: Initializer
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        shape = (width, self.heads, width // self.heads)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape[1:], self.param_dtype)
        x = jnp.einsum("BTD,DHK->BHTK", x, kernel.astype(self.dtype))
        return x + bias.astype(self.dtype)[:, None, :]


class OutputProjection(nn.Module):
    """Dense from the heads back to width D: `kernel` [H, K, D], `bias` [D]. → [B, T, D]."""

    width: int
    kernel_init: Initializer
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _, heads, _, head_width = x.shape
        shape = (heads, head_width, self.width)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), self.param_dtype)
        x = jnp.einsum("BHTK,HKD->BTD", x, kernel.astype(self.dtype))
        return x + bias.astype(self.dtype)


class Attention(nn.Module):
    """Self-attention with biases, [B, T, D] → [B, T, D] in `dtype`; `mask` bool [T, S] or None."""

    heads: int
    in_init: Initializer
    out_init: Initializer
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        query, key, value = (
            HeadProjection(self.heads, self.in_init, name=name, **dtypes)(x)  # [B, H, T, K]
            for name in ("query", "key", "value")
        )
        out = dot_product_attention(query, key=key, value=value, mask=mask)  # [B, H, T, K]
        return OutputProjection(x.shape[-1], self.out_init, name="out", **dtypes)(out)
