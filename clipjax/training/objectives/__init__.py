"""From a model's outputs to the number that is minimised; `training/step.py` differentiates it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clipjax import losses
from clipjax.losses.positives import Positives

MIN_PREDICTED = 1.0  # where a batch has not one word
Objective = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


def contrastive(
    name: str, *, embed_dtype: str = "bfloat16", duplicates: str = "negative", **options: Any
) -> Objective:
    """The contrastive objective over the global batch.

    Args:
      name: a loss of `clipjax.losses`.
      embed_dtype: embeddings are cast to it before the loss; logits are float32 all the same.
      duplicates: what pairs of an image and the caption of an equal image, or of an equal caption,
        are: "negative" like any other pair, "positive", or left out with "mask". The latter two
        read image_id and text_id, uint32 [B], of the batch; see `losses/positives.py`.
      **options: passed to the loss, such as `block_size`.

    Returns:
      objective(outputs, batch, *, mesh, batch_axes) -> (loss float32 [], metrics), where `outputs`
      has image_embed and text_embed float32 [B, E], logit_scale float32 [] and perhaps logit_bias.
    """
    loss = losses.get(name)
    dtype = jnp.dtype(embed_dtype)

    def objective(
        outputs: dict[str, jax.Array],
        batch: dict[str, jax.Array],
        *,
        mesh: Mesh,
        batch_axes: tuple[str, ...],
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        positives = None
        if duplicates != "negative":
            positives = Positives(batch["image_id"], batch["text_id"], mode=duplicates)
        return loss(
            outputs["image_embed"].astype(dtype),
            outputs["text_embed"].astype(dtype),
            logit_scale=outputs["logit_scale"],
            logit_bias=outputs.get("logit_bias"),
            mesh=mesh,
            batch_axes=batch_axes,
            positives=positives,
            **options,
        )

    return objective


def likelihood(
    outputs: dict[str, jax.Array],
    batch: dict[str, jax.Array],
    *,
    mesh: Mesh,
    batch_axes: tuple[str, ...],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Minus the mean log-likelihood of a predicted token, over all tokens of the global batch.

    `outputs` has log_likelihood and predicted float32 [B], see `models/prediction.py`. Its metric
    is `predicted_tokens` float32 [], per caption.
    """
    del batch, mesh, batch_axes  # a sum over the batch is one wherever it lies
    number = jnp.sum(outputs["predicted"])
    loss = -jnp.sum(outputs["log_likelihood"]) / jnp.maximum(number, MIN_PREDICTED)
    return loss, {"predicted_tokens": number / len(outputs["predicted"])}
