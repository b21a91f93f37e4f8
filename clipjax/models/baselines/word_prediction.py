"""The words of a caption in any order, predicted from the image: a baseline of the paper's
Figure 2, after Joulin et al. 2016, "Learning visual features from large weakly supervised data".
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from clipjax.models.baselines.bag_of_words import is_word
from clipjax.models.compute import Compute
from clipjax.models.config import WordPredictionConfig
from clipjax.models.layers import Linear


class WordPredictor(nn.Module):
    """Log-likelihoods of captions under one distribution of words for each image.

    `vocabulary` maps the image's vector to a softmax over all V tokens, from which every word of
    the caption is drawn alone. Begins as N(0, E^-½).
    """

    config: WordPredictionConfig
    embed_dim: int
    compute: Compute

    def setup(self) -> None:
        normal = nn.initializers.normal(self.embed_dim**-0.5)
        self.vocabulary = Linear(self.config.vocab_size, normal, **self.compute.dtypes)

    def __call__(self, image: jax.Array, text: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Image vectors float32 [B, E], token ids int32 [B, T] → the summed log-likelihood of the
        words and their number, float32 [B] each."""
        likelihoods = jnp.take_along_axis(self._distribution(image), text, axis=1)  # [B, T]
        counted = is_word(text)
        return jnp.sum(likelihoods * counted, axis=1), jnp.sum(counted, axis=1, dtype=jnp.float32)

    def of_each(self, image: jax.Array, texts: jax.Array) -> jax.Array:
        """Image vectors float32 [B, E], token ids int32 [C, T] → mean log-likelihood of a word of
        each text for each image, float32 [B, C]."""
        counted = is_word(texts).astype(jnp.float32)  # [C, T]
        places = jnp.arange(len(texts))[:, None]
        counts = jnp.zeros((len(texts), self.config.vocab_size)).at[places, texts].add(counted)
        share = counts / jnp.maximum(counted.sum(axis=1, keepdims=True), 1)
        highest = jax.lax.Precision.HIGHEST
        return jnp.einsum("bv,cv->bc", self._distribution(image), share, precision=highest)

    def _distribution(self, image: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(self.vocabulary(image))  # float32 [B, V]
