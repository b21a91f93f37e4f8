"""The text towers: a transformer pooled at one of its tokens, and the mean of all words."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from clipjax.models.kernels.rows import Place
from clipjax.models.layers import LayerNorm, Linear
from clipjax.models.transformer import Constrain, apply_blocks
from clipjax.models.words import is_word


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

    End of text is the largest id of the vocabulary, so its first place is the argmax.
    """
    end = jnp.argmax(text, axis=-1)[:, None, None]  # [B, 1, 1]
    # Not x[rows, end]: that indexing makes the partitioner gather the whole batch.
    return jnp.take_along_axis(x, end, axis=1)[:, 0]  # [B, D]


class TextTransformer(nn.Module):
    """Token ids int32 [B, T] → float32 [B, E], not yet L2-normalised.

    Learned positions (N(0, 0.01)), blocks, `ln_final`, pooling, projection (N(0, D^-½)) (paper
    section 2.4, released model.py); causality and pooling as `shapes.TextConfig` says. Padding
    needs no mask: it comes after the end-of-text token, which cannot look ahead. Without causality
    padding is looked at, as SigLIP does.
    """

    embed_dim: int
    context_length: int
    vocab_size: int
    width: int
    heads: int
    layers: int
    mlp_ratio: float
    causal: bool
    pooling: str
    projection_bias: bool
    activation: str
    epsilon: float
    remat: str
    scan: bool
    dtype: Any
    param_dtype: Any
    constrain: Constrain
    place: Place | None = None

    @nn.compact
    def __call__(self, text: jax.Array) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        normal = nn.initializers.normal

        x = TokenEmbedding(self.vocab_size, self.width, name="token_embedding", **dtypes)(text)
        positions = self.param(
            "position_embedding",
            normal(0.01),
            (self.context_length, self.width),
            self.param_dtype,
        )  # [T, D]
        x = self.constrain(x + positions.astype(self.dtype))  # [B, T, D]
        x = apply_blocks(
            x,
            causal=self.causal,
            scan=self.scan,
            remat=self.remat,
            layers=self.layers,
            heads=self.heads,
            mlp_width=round(self.width * self.mlp_ratio),
            activation=self.activation,
            epsilon=self.epsilon,
            constrain=self.constrain,
            place=self.place,
            **dtypes,
        )
        # Each position is normalised alone, so the others need not be.
        x = pool_end_of_text(x, text=text) if self.pooling == "end_of_text" else x[:, -1]
        x = LayerNorm(self.epsilon, name="ln_final", **dtypes)(x)  # [B, D]
        return Linear(
            self.embed_dim,
            normal(self.width**-0.5),
            use_bias=self.projection_bias,
            name="projection",
            **dtypes,
        )(x)


class BagOfWords(nn.Module):
    """Token ids int32 [B, T] → float32 [B, E], not yet L2-normalised.

    The mean embedding of a caption's words, whatever their order, then `ln_final` and `projection`
    as in the transformer; the start and end of text do not count, and no word at all gives zeros.
    """

    embed_dim: int
    context_length: int
    vocab_size: int
    width: int
    epsilon: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, text: jax.Array) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = TokenEmbedding(self.vocab_size, self.width, name="token_embedding", **dtypes)(text)
        counted = is_word(text)[..., None]  # [B, T, 1]
        x = jnp.sum(x * counted, axis=1, dtype=jnp.float32) / jnp.maximum(counted.sum(axis=1), 1)
        x = LayerNorm(self.epsilon, name="ln_final", **dtypes)(x.astype(self.dtype))  # [B, D]
        normal = nn.initializers.normal(self.width**-0.5)
        return Linear(self.embed_dim, normal, name="projection", **dtypes)(x)
