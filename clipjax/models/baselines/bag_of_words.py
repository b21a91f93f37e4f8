"""The mean of a caption's word embeddings: the text encoder of the paper's Figure 2."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from clipjax.models.compute import Compute
from clipjax.models.config import BagOfWordsConfig
from clipjax.models.layers import LayerNorm, Linear
from clipjax.models.text import TokenEmbedding


def is_word(text: jax.Array) -> jax.Array:
    """bool [..., T] of token ids int [..., T]: neither the start, nor the end, nor behind it.

    The end of text is the largest id, as `text.pool_end_of_text` takes it.
    """
    position = jnp.arange(text.shape[-1])
    return (position > 0) & (position < jnp.argmax(text, axis=-1)[..., None])


class BagOfWords(nn.Module):
    """Token ids int32 [B, T] → float32 [B, E], not yet L2-normalised.

    The mean embedding of a caption's words, whatever their order, then `ln_final` and `projection`
    as in the transformer; the start and end of text do not count, and no word at all gives zeros.
    """

    config: BagOfWordsConfig
    embed_dim: int
    compute: Compute

    @nn.compact
    def __call__(self, text: jax.Array) -> jax.Array:
        tower, dtypes = self.config, self.compute.dtypes
        x = TokenEmbedding(tower.vocab_size, tower.width, name="token_embedding", **dtypes)(text)
        counted = is_word(text)[..., None]  # [B, T, 1]
        x = jnp.sum(x * counted, axis=1, dtype=jnp.float32) / jnp.maximum(counted.sum(axis=1), 1)
        norm = LayerNorm(tower.layer_norm_epsilon, name="ln_final", **dtypes)
        x = norm(x.astype(self.compute.dtype))  # [B, D]
        normal = nn.initializers.normal(tower.width**-0.5)
        return Linear(self.embed_dim, normal, name="projection", **dtypes)(x)
