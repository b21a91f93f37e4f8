"""CLIP's symmetric softmax loss (Radford et al., 2021, figure 3) over a sharded global batch.

Registry names softmax_gather (each device gathers all embeddings) and softmax_ring (embeddings
travel round in blocks). The two share the arithmetic of a block and differ in how blocks meet.
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clipjax.losses import blocks, ring, vjp
from clipjax.losses.positives import Positives, pair_masks


def softmax_gather(
    image_embed: jax.Array,
    text_embed: jax.Array,
    *,
    logit_scale: jax.Array,
    logit_bias: jax.Array | None = None,
    mesh: Mesh,
    batch_axes: str | tuple[str, ...],
    positives: Positives | None = None,
) -> tuple[jax.Array, dict]:
    """Softmax loss; each device gathers all embeddings and computes its own rows of logits.

    Temporaries per device grow with B x B / devices. Arguments and results as in
    `clipjax.losses.get`; logit_bias is ignored, a softmax does not see it.
    """
    return vjp.apply(
        vjp.Method(forward=_gather_forward, gradient=_gather_gradient),
        image_embed,
        text_embed,
        logit_scale=logit_scale,
        logit_bias=0.0,
        mesh=mesh,
        batch_axes=batch_axes,
        positives=positives,
    )


def softmax_ring(
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
    """Softmax loss; embeddings go round the devices and logits exist a block at a time.

    Temporaries per device grow with B / devices. Arguments and results as in
    `clipjax.losses.get`; logit_bias is ignored, a softmax does not see it.
    """
    return vjp.apply(
        vjp.Method(forward=_ring_forward, gradient=_ring_gradient),
        image_embed,
        text_embed,
        logit_scale=logit_scale,
        logit_bias=0.0,
        mesh=mesh,
        batch_axes=batch_axes,
        positives=positives,
        block_size=block_size,
    )


def _statistics(logits: jax.Array, x: dict, y: dict, layout: vjp.Layout, *, axis: int) -> dict:
    """Statistics of one block for the loss and, over axis 1, for the means of the metrics."""
    positive, negative = pair_masks(x, y, mode=layout.mode)
    measures = ("best", "log") + (("sum", "count") if axis == 1 else ())
    found = blocks.statistics(logits, negative, measures=measures, kind="negative", axis=axis)
    if layout.mode == "positive":
        measures = ("best", "log", "sum", "count")
        found |= blocks.statistics(logits, positive, measures=measures, kind="positive", axis=axis)
    return found


def _finish(
    image: dict, text: dict, rows: dict, columns: dict, scalars: dict, layout: vjp.Layout
) -> tuple:
    """What `vjp.Method.forward` returns, from this device's rows and their statistics."""
    if layout.mode != "positive":
        own = blocks.own_positive(image, text, scalars)
        rows, columns = rows | own, columns | own
    weight = 1.0 / rows["count_positive"]  # a row's target is spread evenly over its positives
    saved, cross_entropy = [], 0.0
    for found in (rows, columns):
        log_sum_exp = jnp.logaddexp(found["log_negative"], found["log_positive"])
        cross_entropy += jnp.mean(log_sum_exp - weight * found["sum_positive"]) / 2
        saved.append({"log_sum_exp": log_sum_exp, "weight": weight})
    metrics = blocks.metrics(rows, columns, logit_scale=scalars["scale"], axes=layout.axes)
    return jax.lax.pmean(cross_entropy, layout.axes), metrics, tuple(saved)


def _block_gradient(x: dict, y: dict, scalars: dict, layout: vjp.Layout) -> tuple:
    """`vjp.Method.gradient` for one block.

    Each logit is in one row's and one column's cross-entropy, each counted half, so its slope is
    half of both probabilities less both targets.
    """
    similarity = blocks.similarity(x, y)
    logits = scalars["scale"] * similarity
    positive, negative = pair_masks(x, y, mode=layout.mode)
    probabilities = jnp.exp(logits - x["log_sum_exp"][:, None])
    probabilities += jnp.exp(logits - y["log_sum_exp"][None, :])
    targets = jnp.where(positive, x["weight"][:, None] + y["weight"][None, :], 0.0)
    slope = jnp.where(positive | negative, (probabilities - targets) / 2, 0.0)
    gradient = blocks.dot("bc,ce->be", slope.astype(y["embed"].dtype), y["embed"])
    return gradient, {"scale": jnp.sum(slope * similarity), "bias": jnp.zeros(())}


def _gather_forward(image: dict, text: dict, scalars: dict, layout: vjp.Layout) -> tuple:
    def statistics(x, y):
        y = jax.lax.all_gather(y, layout.axes, tiled=True)
        logits = scalars["scale"] * blocks.similarity(x, y)
        return _statistics(logits, x, y, layout, axis=1)

    rows, columns = statistics(image, text), statistics(text, image)
    return _finish(image, text, rows, columns, scalars, layout)


def _gather_gradient(x: dict, y: dict, scalars: dict, layout: vjp.Layout) -> tuple:
    y = jax.lax.all_gather(y, layout.axes, tiled=True)
    return _block_gradient(x, y, scalars, layout)


def _ring_forward(image: dict, text: dict, scalars: dict, layout: vjp.Layout) -> tuple:
    def block(x, y):
        logits = scalars["scale"] * blocks.similarity(x, y)
        return [_statistics(logits, x, y, layout, axis=axis) for axis in (1, 0)]

    rows, columns = ring.statistics(block, image, text, layout)
    return _finish(image, text, rows, columns, scalars, layout)


def _ring_gradient(x: dict, y: dict, scalars: dict, layout: vjp.Layout) -> tuple:
    def block(x, y):
        return _block_gradient(x, y, scalars, layout)

    return ring.gradient(block, x, y, layout)
