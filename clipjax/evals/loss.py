"""The contrastive loss on held-out pairs, from their embeddings, in batches of a fixed size."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clipjax.data import eval_batches
from clipjax.evals import embed
from clipjax.models.clip import CLIP


def make_evaluator(
    model: CLIP, *, source: Any, tokenizer: Any, image_size: int, mesh: Mesh, batch_size: int
) -> embed.Evaluator:
    """{"loss": …} over `source`, images with their first captions, `batch_size` competing."""
    texts, text_image = eval_batches.eval_caption_list(source)
    firsts = [texts[i] for i in np.unique(text_image, return_index=True)[1]]
    embedder = embed.Embedder(model, mesh=mesh, batch_size=batch_size)

    def measure(variables: Any, *, poll: embed.Poll) -> tuple[dict[str, float], None]:
        loss = contrastive_loss(
            embedder.images(variables, source, image_size=image_size, poll=poll),
            embedder.texts(variables, firsts, tokenizer=tokenizer, poll=poll),
            logit_scale=float(np.exp(np.asarray(variables["params"]["logit_scale"]))),
            batch_size=batch_size,
        )
        return {"loss": loss}, None

    competing = min(batch_size, len(source))
    return embed.Evaluator(measure, n=len(source), chance={"loss": float(np.log(competing))})


def contrastive_loss(
    image_embed: np.ndarray, text_embed: np.ndarray, *, logit_scale: float, batch_size: int
) -> float:
    """Mean symmetric cross-entropy over pairs, each among the pairs of its batch.

    Args:
      image_embed, text_embed: float32 [N, E], row i of one belongs to row i of the other.
      logit_scale: the multiplier of the cosines.
      batch_size: pairs that compete; it defines the number, so compare only equal sizes. A last
        smaller batch counts by its pairs.
    """
    total = 0.0
    for start in range(0, len(image_embed), batch_size):
        rows = slice(start, start + batch_size)
        total += float(_summed(image_embed[rows], text_embed[rows], logit_scale=logit_scale))
    return total / len(image_embed)


@jax.jit
def _summed(image_embed: jax.Array, text_embed: jax.Array, *, logit_scale: jax.Array) -> jax.Array:
    logits = logit_scale * jnp.einsum(
        "be,ce->bc", image_embed, text_embed, precision=jax.lax.Precision.HIGHEST
    )
    right = jnp.diagonal(logits)
    rows, columns = (jax.nn.logsumexp(logits, axis=axis) for axis in (1, 0))
    return jnp.sum((rows + columns) / 2 - right)
