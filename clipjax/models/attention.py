"""Multi-head self-attention, used by the blocks of both towers."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from clipjax.models.kernels import attention as kernel
from clipjax.models.kernels.bias import add_bias
from clipjax.models.kernels.rows import KernelMesh
from clipjax.models.layers import DenseParams, Initializer


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


class Attention(nn.Module):
    """Self-attention with biases, [B, T, D] → [B, T, D] in `dtype`; `causal`: nothing looks ahead.

    Query, key and value each have their own matrix [D, H, K], because a packed one needs a reshape
    that costs a layout copy on TPU. With a `kernel_mesh` the kernel replaces the plain form where
    it fits; the parameters are the same.
    """

    heads: int
    causal: bool
    in_init: Initializer
    out_init: Initializer
    dtype: Any
    param_dtype: Any
    kernel_mesh: KernelMesh | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _, tokens, width = x.shape
        split = (self.heads, width // self.heads)  # H, K
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        inputs = [
            DenseParams((width, *split), split, self.in_init, name=name, **dtypes)()
            for name in ("query", "key", "value")
        ]
        out_kernel, out_bias = DenseParams(
            (*split, width), (width,), self.out_init, name="out", **dtypes
        )()
        sizes = {"tokens": tokens, "width": width, "heads": self.heads}
        if self.kernel_mesh is not None and kernel.fits(kernel_mesh=self.kernel_mesh, **sizes):
            query, key, value = (
                add_bias(
                    x @ matrix.reshape(width, width),
                    bias.reshape(width),
                    kernel_mesh=self.kernel_mesh,
                    features="tensor",
                )
                for matrix, bias in inputs
            )  # [B, T, H·K]
            x = kernel.attention(
                query,
                key=key,
                value=value,
                heads=self.heads,
                causal=self.causal,
                kernel_mesh=self.kernel_mesh,
            )
            return add_bias(
                x @ out_kernel.reshape(width, width), out_bias, kernel_mesh=self.kernel_mesh
            )
        query, key, value = (
            jnp.einsum("BTD,DHK->BHTK", x, matrix) + bias[:, None, :] for matrix, bias in inputs
        )
        mask = causal_mask(tokens) if self.causal else None
        x = dot_product_attention(query, key=key, value=value, mask=mask)  # [B, H, T, K]
        return jnp.einsum("BHTK,HKD->BTD", x, out_kernel) + out_bias


class QueryAttention(nn.Module):
    """Attention of few queries to many tokens, [B, Q, D] and [B, T, D] → [B, Q, F] in `dtype`.

    What pools an image's tokens: no kernel, since the scores are few.
    """

    heads: int
    features: int
    in_init: Initializer
    out_init: Initializer
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, queries: jax.Array, tokens: jax.Array) -> jax.Array:
        width = tokens.shape[-1]
        split = (self.heads, width // self.heads)  # H, K
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def project(x: jax.Array, name: str) -> jax.Array:
            kernel, bias = DenseParams((width, *split), split, self.in_init, name=name, **dtypes)()
            return jnp.einsum("BTD,DHK->BHTK", x, kernel) + bias[:, None, :]

        x = dot_product_attention(
            project(queries, "query"),
            key=project(tokens, "key"),
            value=project(tokens, "value"),
            mask=None,
        )  # [B, H, Q, K]
        kernel, bias = DenseParams(
            (*split, self.features), (self.features,), self.out_init, name="out", **dtypes
        )()
        return jnp.einsum("BHQK,HKF->BQF", x, kernel) + bias
