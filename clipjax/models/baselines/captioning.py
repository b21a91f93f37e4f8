"""A caption's tokens one after the other, predicted from the image and those before: a baseline
of the paper's Figure 2, whose image becomes the first 4 tokens (appendix A.2).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from clipjax.models.compute import Compute
from clipjax.models.config import CaptioningConfig
from clipjax.models.layers import LayerNorm, Linear
from clipjax.models.text import TokenEmbedding
from clipjax.models.transformer import apply_blocks


class CaptionDecoder(nn.Module):
    """Log-likelihoods of captions: a causal transformer behind a prefix made of the image.

    Every token after the start is predicted, the end of text included. Initialised as
    `text.TextTransformer`; `prefix` N(0, E^-½), `vocabulary` N(0, D^-½). The log-softmax is over
    [B, T, V], which is by far the largest array: `micro_batches` divide it.
    """

    config: CaptioningConfig
    embed_dim: int
    compute: Compute

    @nn.compact
    def __call__(self, image: jax.Array, text: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Image vectors float32 [B, E], token ids int32 [B, T] → the summed log-likelihood of the
        predicted tokens and their number, float32 [B] each."""
        tower, compute, dtypes = self.config, self.compute, self.compute.dtypes
        normal = nn.initializers.normal
        inner = tower.prefix * tower.width
        first = Linear(inner, normal(self.embed_dim**-0.5), name="prefix_projection", **dtypes)
        prefix = first(image).reshape(len(image), tower.prefix, tower.width)  # [B, P, D]
        known, predicted = text[:, :-1], text[:, 1:]  # [B, T - 1]
        x = TokenEmbedding(tower.vocab_size, tower.width, name="token_embedding", **dtypes)(known)
        x = jnp.concatenate([prefix.astype(compute.dtype), x], axis=1)  # [B, P + T - 1, D]
        shape = (tower.tokens, tower.width)
        positions = self.param("position_embedding", normal(0.01), shape, compute.param_dtype)
        x = compute.constrain(x + positions.astype(compute.dtype))
        x = apply_blocks(x, blocks=tower.blocks, compute=compute)[:, tower.prefix :]
        x = LayerNorm(tower.layer_norm_epsilon, name="ln_final", **dtypes)(x)
        x = Linear(tower.vocab_size, normal(tower.width**-0.5), name="vocabulary", **dtypes)(x)
        likelihoods = jnp.take_along_axis(jax.nn.log_softmax(x), predicted[..., None], axis=2)[
            ..., 0
        ]
        counted = jnp.arange(predicted.shape[1]) < jnp.argmax(text, axis=1)[:, None]  # [B, T - 1]
        return jnp.sum(likelihoods * counted, axis=1), jnp.sum(counted, axis=1, dtype=jnp.float32)

    def of_each(self, image: jax.Array, texts: jax.Array) -> jax.Array:
        """Image vectors float32 [B, E], token ids int32 [C, T] → mean log-likelihood of a token of
        each text for each image, float32 [B, C]."""
        pairs = jnp.repeat(image, len(texts), axis=0), jnp.tile(texts, (len(image), 1))
        total, number = self(*pairs)
        return (total / number).reshape(len(image), len(texts))
