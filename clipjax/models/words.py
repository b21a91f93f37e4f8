"""The words of a caption in any order, predicted from the image: a baseline of the paper's
Figure 2, after Joulin et al. 2016, "Learning visual features from large weakly supervised data".
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from clipjax.models.layers import Linear


def is_word(text: jax.Array) -> jax.Array:
    """bool [..., T] of token ids int [..., T]: neither the start, nor the end, nor behind it.

    The end of text is the largest id, as `text.pool_end_of_text` takes it.
    """
    place = jnp.arange(text.shape[-1])
    return (place > 0) & (place < jnp.argmax(text, axis=-1)[..., None])


class WordPredictor(nn.Module):
    """Log-likelihoods of captions under one distribution of words for each image.

    `vocabulary` maps the image's vector to a softmax over all V tokens, from which every word of
    the caption is drawn alone. Begins as N(0, E^-½).
    """

    embed_dim: int
    context_length: int
    vocab_size: int
    dtype: Any
    param_dtype: Any

    def setup(self) -> None:
        normal = nn.initializers.normal(self.embed_dim**-0.5)
        self.vocabulary = Linear(self.vocab_size, normal, self.dtype, self.param_dtype)

    def __call__(self, image: jax.Array, text: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Image vectors float32 [B, E], token ids int32 [B, T] → the summed log-likelihood of the
        words and their number, float32 [B] each."""
        found = jnp.take_along_axis(self._distribution(image), text, axis=1)  # [B, T]
        counted = is_word(text)
        return jnp.sum(found * counted, axis=1), jnp.sum(counted, axis=1, dtype=jnp.float32)

    def of_each(self, image: jax.Array, texts: jax.Array) -> jax.Array:
        """Image vectors float32 [B, E], token ids int32 [C, T] → mean log-likelihood of a word of
        each text for each image, float32 [B, C]."""
        counted = is_word(texts).astype(jnp.float32)  # [C, T]
        places = jnp.arange(len(texts))[:, None]
        counts = jnp.zeros((len(texts), self.vocab_size)).at[places, texts].add(counted)
        share = counts / jnp.maximum(counted.sum(axis=1, keepdims=True), 1)
        highest = jax.lax.Precision.HIGHEST
        return jnp.einsum("bv,cv->bc", self._distribution(image), share, precision=highest)

    def _distribution(self, image: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(self.vocabulary(image))  # float32 [B, V]
