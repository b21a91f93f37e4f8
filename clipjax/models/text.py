"""The text tower: a transformer, pooled at one of its tokens."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from clipjax.models.compute import Compute
from clipjax.models.config import TextConfig
from clipjax.models.layers import LayerNorm, Linear
from clipjax.models.transformer import apply_blocks


class TokenEmbedding(nn.Module):
    """Rows of `embedding` [V, D], which starts as N(0, 0.02). int32 [B, T] → `dtype` [B, T, D]."""

    vocab_size: int
    width: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, text: jax.Array) -> jax.Array:
        shape = (self.vocab_size, self.width)
        table = self.param("embedding", nn.initializers.normal(0.02), shape, self.param_dtype)
        return jnp.take(table, text, axis=0).astype(self.dtype)


def pool_end_of_text(x: jax.Array, *, text: jax.Array) -> jax.Array:
    """The features at each caption's end-of-text token: x [B, T, D], text int [B, T] → [B, D].

    End of text is the largest id of the vocabulary, so its first kernel_mesh is the argmax.
    """
    end = jnp.argmax(text, axis=-1)[:, None, None]  # [B, 1, 1]
    # Not x[rows, end]: that indexing makes the partitioner gather the whole batch.
    return jnp.take_along_axis(x, end, axis=1)[:, 0]  # [B, D]


class TextTransformer(nn.Module):
    """Token ids int32 [B, T] → float32 [B, E], not yet L2-normalised.

    Learned positions (N(0, 0.01)), blocks, `ln_final`, pooling, projection (N(0, D^-½)) (paper
    section 2.4, released model.py); causality and pooling as `config` says. Padding needs no mask:
    it comes after the end-of-text token, which cannot look ahead. Without causality padding is
    looked at, as SigLIP does.
    """

    config: TextConfig
    embed_dim: int
    compute: Compute

    @nn.compact
    def __call__(self, text: jax.Array) -> jax.Array:
        tower, compute, dtypes = self.config, self.compute, self.compute.dtypes
        normal = nn.initializers.normal

        x = TokenEmbedding(tower.vocab_size, tower.width, name="token_embedding", **dtypes)(text)
        positions = self.param(
            "position_embedding",
            normal(0.01),
            (tower.context_length, tower.width),
            compute.param_dtype,
        )  # [T, D]
        x = compute.constrain(x + positions.astype(compute.dtype))  # [B, T, D]
        x = apply_blocks(x, blocks=tower.blocks, compute=compute)
        # Each position is normalised alone, so the others need not be.
        x = pool_end_of_text(x, text=text) if tower.pooling == "end_of_text" else x[:, -1]
        x = LayerNorm(tower.layer_norm_epsilon, name="ln_final", **dtypes)(x)  # [B, D]
        return Linear(
            self.embed_dim,
            normal(tower.width**-0.5),
            use_bias=tower.projection_bias,
            name="projection",
            **dtypes,
        )(x)
