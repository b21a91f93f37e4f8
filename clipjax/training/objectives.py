"""From a model's outputs to the number that is minimised; `training/step.py` differentiates it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clipjax import losses

Objective = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


def contrastive(name: str, *, embed_dtype: str = "bfloat16", **options: Any) -> Objective:
    """The contrastive objective over the global batch.

    Args:
      name: a loss of `clipjax.losses`.
      embed_dtype: embeddings are cast to it before the loss; logits are float32 all the same.
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
        del batch  # the pairing is by row; other objectives read targets from it
        return loss(
            outputs["image_embed"].astype(dtype),
            outputs["text_embed"].astype(dtype),
            logit_scale=outputs["logit_scale"],
            logit_bias=outputs.get("logit_bias"),
            mesh=mesh,
            batch_axes=batch_axes,
            **options,
        )

    return objective
