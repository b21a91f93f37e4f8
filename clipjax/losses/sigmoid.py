"""SigLIP's pairwise sigmoid loss (Zhai et al., 2023, algorithm 1) over a sharded global batch.

Registry name sigmoid_ring. Its logits have a learnt bias; every pair is a yes-or-no question.
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clipjax.losses import blocks, ring, vjp
from clipjax.losses.positives import Positives, pair_masks


def sigmoid_ring(
    image_embed: jax.Array,
    text_embed: jax.Array,
    *,
    logit_scale: jax.Array,
    logit_bias: jax.Array | None = None,
    mesh: Mesh,
    batch_axes: str | tuple[str, ...],
    positives: Positives | None = None,
    block_size: int = 1024,
) -> tuple[jax.Array, dict]:
    """Sum over all B x B pairs of the logistic loss, label +1 for positives else -1, over B.

    Embeddings go round the devices and logits exist a block at a time; temporaries per device
    grow with B / devices. Arguments and results as in `clipjax.losses.get`; no logit_bias is a
    bias of 0 (SigLIP starts it at -10, so that the many negatives do not swamp the first steps).
    """
    return vjp.apply(
        vjp.Method(forward=_forward, gradient=_gradient),
        image_embed,
        text_embed,
        logit_scale=logit_scale,
        logit_bias=0.0 if logit_bias is None else logit_bias,
        mesh=mesh,
        batch_axes=batch_axes,
        positives=positives,
        block_size=block_size,
    )


def _forward(image: dict, text: dict, scalars: dict, layout: vjp.Layout) -> tuple:
    def block(x, y):
        logits = scalars["scale"] * blocks.similarity(x, y) + scalars["bias"]
        positive, negative = pair_masks(x, y, mode=layout.mode)
        # -log sigmoid(±l) as softplus(∓l), which neither over- nor underflows.
        pair_loss = jax.nn.softplus(jnp.where(positive, -logits, logits))
        row = blocks.statistics(
            pair_loss, positive | negative, measures=("sum",), kind="loss", axis=1
        )
        column = {}
        for kind, mask in {"positive": positive, "negative": negative}.items():
            if kind == "negative" or layout.mode == "positive":
                measures = ("best", "sum", "count")
                row |= blocks.statistics(logits, mask, measures=measures, kind=kind, axis=1)
                column |= blocks.statistics(logits, mask, measures=("best",), kind=kind, axis=0)
        return row, column

    rows, columns = ring.statistics(block, image, text, layout)
    loss = jax.lax.pmean(jnp.mean(rows["sum_loss"]), layout.axes)
    if layout.mode != "positive":
        own = blocks.own_positive(image, text, scalars)
        rows, columns = rows | own, columns | own
    metrics = blocks.metrics(rows, columns, logit_scale=scalars["scale"], axes=layout.axes)
    return loss, metrics, ({}, {})


def _gradient(x: dict, y: dict, scalars: dict, layout: vjp.Layout) -> tuple:
    def block(x, y):
        similarity = blocks.similarity(x, y)
        logits = scalars["scale"] * similarity + scalars["bias"]
        positive, negative = pair_masks(x, y, mode=layout.mode)
        # sigmoid(l) - 1 as -sigmoid(-l): no cancellation where the pair is already right
        slope = jnp.where(positive, -jax.nn.sigmoid(-logits), jax.nn.sigmoid(logits))
        slope = jnp.where(positive | negative, slope, 0.0)
        gradient = blocks.dot("bc,ce->be", slope.astype(y["embed"].dtype), y["embed"])
        return gradient, {"scale": jnp.sum(slope * similarity), "bias": jnp.sum(slope)}

    return ring.gradient(block, x, y, layout)
