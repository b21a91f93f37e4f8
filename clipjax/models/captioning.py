"""A caption's tokens one after the other, predicted from the image and those before: a baseline
of the paper's Figure 2, whose image becomes the first 4 tokens (appendix A.2).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from clipjax.models.kernels.rows import Place
from clipjax.models.layers import LayerNorm, Linear
from clipjax.models.text import TokenEmbedding
from clipjax.models.transformer import Constrain, apply_blocks


class CaptionDecoder(nn.Module):
    """Log-likelihoods of captions: a causal transformer behind a prefix made of the image.

    Every token after the start is predicted, the end of text included. Initialised as
    `text.TextTransformer`; `prefix` N(0, E^-½), `vocabulary` N(0, D^-½). The log-softmax is over
    [B, T, V], which is by far the largest array: `micro_batches` divide it.
    """

    embed_dim: int
    context_length: int
    vocab_size: int
    width: int
    heads: int
    layers: int
    prefix: int
    mlp_ratio: float
    activation: str
    epsilon: float
    remat: str
    scan: bool
    dtype: Any
    param_dtype: Any
    constrain: Constrain
    place: Place | None = None

    @nn.compact
    def __call__(self, image: jax.Array, text: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Image vectors float32 [B, E], token ids int32 [B, T] → the summed log-likelihood of the
        predicted tokens and their number, float32 [B] each."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        normal = nn.initializers.normal
        inner = self.prefix * self.width
        first = Linear(inner, normal(self.embed_dim**-0.5), name="prefix_projection", **dtypes)
        prefix = first(image).reshape(len(image), self.prefix, self.width)  # [B, P, D]
        known, predicted = text[:, :-1], text[:, 1:]  # [B, T - 1]
        x = TokenEmbedding(self.vocab_size, self.width, name="token_embedding", **dtypes)(known)
        x = jnp.concatenate([prefix.astype(self.dtype), x], axis=1)  # [B, P + T - 1, D]
        positions = self.param(
            "position_embedding",
            normal(0.01),
            (self.prefix + self.context_length - 1, self.width),
            self.param_dtype,
        )
        x = apply_blocks(
            self.constrain(x + positions.astype(self.dtype)),
            causal=True,
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
        x = LayerNorm(self.epsilon, name="ln_final", **dtypes)(x[:, self.prefix :])
        x = Linear(self.vocab_size, normal(self.width**-0.5), name="vocabulary", **dtypes)(x)
        found = jnp.take_along_axis(jax.nn.log_softmax(x), predicted[..., None], axis=2)[..., 0]
        counted = jnp.arange(predicted.shape[1]) < jnp.argmax(text, axis=1)[:, None]  # [B, T - 1]
        return jnp.sum(found * counted, axis=1), jnp.sum(counted, axis=1, dtype=jnp.float32)

    def of_each(self, image: jax.Array, texts: jax.Array) -> jax.Array:
        """Image vectors float32 [B, E], token ids int32 [C, T] → mean log-likelihood of a token of
        each text for each image, float32 [B, C]."""
        pairs = jnp.repeat(image, len(texts), axis=0), jnp.tile(texts, (len(image), 1))
        total, number = self(*pairs)
        return (total / number).reshape(len(image), len(texts))
