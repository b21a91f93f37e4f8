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
    means = ("sum", "count") if axis == 1 else ()
    measures = ("best", "mass", *means)
    figures = blocks.statistics(logits, negative, measures=measures, kind="negative", axis=axis)
    if layout.mode == "positive":
        measures = ("best", "mass", "sum", *means)
        figures |= blocks.statistics(
            logits, positive, measures=measures, kind="positive", axis=axis
        )
    return figures


def _finish(
    image: dict, text: dict, rows: dict, columns: dict, scalars: dict, layout: vjp.Layout
) -> tuple:
    """What `vjp.Method.forward` returns, from this device's rows and their statistics."""
    if layout.mode != "positive":
        own = blocks.own_positive(image, text, scalars)
        rows, columns = rows | own, columns | own
    weight = 1.0 / rows["count_positive"]  # a row's target is spread evenly over its positives
    saved, cross_entropy = [], 0.0
    for figures in (rows, columns):
        negative = figures["best_negative"], figures["mass_negative"]
        positive = figures["best_positive"], figures["mass_positive"]
        top, mass = blocks.join(*negative, *positive)
        log_mass = jnp.log(mass)
        cross_entropy += jnp.mean((top - weight * figures["sum_positive"]) + log_mass) / 2
        # The probability of all negatives, summed from themselves: 1 - p would be rounding
        # where the model is almost always right.
        miss = negative[1] * jnp.exp(negative[0] - top) / mass
        saved.append({"top": top, "log_mass": log_mass, "miss": miss, "weight": weight})
    metrics = blocks.metrics(rows, columns, logit_scale=scalars["scale"], axes=layout.axes)
    return jax.lax.pmean(cross_entropy, layout.axes), metrics, tuple(saved)


def _block_gradient(x: dict, y: dict, scalars: dict, layout: vjp.Layout) -> tuple:
    """One block's part of `vjp.Method.gradient`; `_own_gradient` is the rest.

    Each logit is in one row's and one column's cross-entropy, each counted half, so its slope is
    half of both probabilities less both targets.
    """
    similarity = blocks.similarity(x, y)
    logits = scalars["scale"] * similarity
    positive, negative = pair_masks(x, y, mode=layout.mode)
    # p(y given x) + p(x given y), rebuilt of the saved log-sum-exps: no [B, B] matrix was kept.
    # top and log_mass are taken off one after the other: their sum, rounded, would cost digits.
    slope = jnp.exp((logits - x["top"][:, None]) - x["log_mass"][:, None])
    slope += jnp.exp((logits - y["top"][None, :]) - y["log_mass"][None, :])
    if layout.mode == "positive":
        slope -= jnp.where(positive, x["weight"][:, None] + y["weight"][None, :], 0.0)
        slope = jnp.where(positive | negative, slope / 2, 0.0)
    else:
        slope = jnp.where(negative, slope / 2, 0.0)
    gradient = blocks.dot("bc,ce->be", slope.astype(y["embed"].dtype), y["embed"])
    return gradient, {"scale": jnp.sum(slope * similarity), "bias": jnp.zeros(())}


def _own_gradient(x: dict, y: dict, layout: vjp.Layout) -> tuple:
    """Each row's pull to its partner where that is its one positive (else the blocks have it).

    Its probability less 1 is the probability of all negatives, which is exact where the
    subtraction would leave rounding: in a model that is almost always right.
    """
    if layout.mode == "positive":
        return 0.0, {"scale": 0.0, "bias": 0.0}
    slope = -(x["miss"] + y["miss"]) / 2
    gradient = slope[:, None] * y["embed"].astype(jnp.float32)
    return gradient, {"scale": jnp.sum(slope * blocks.own_similarity(x, y)), "bias": 0.0}


def _gather_forward(image: dict, text: dict, scalars: dict, layout: vjp.Layout) -> tuple:
    def statistics(x, y):
        # Each device makes its own [B / devices, B] rows of logits, once for each direction.
        y = jax.lax.all_gather(y, layout.axes, tiled=True)
        logits = scalars["scale"] * blocks.similarity(x, y)
        return _statistics(logits, x, y, layout, axis=1)

    rows, columns = statistics(image, text), statistics(text, image)
    return _finish(image, text, rows, columns, scalars, layout)


def _gather_gradient(x: dict, y: dict, scalars: dict, layout: vjp.Layout) -> tuple:
    everyone = jax.lax.all_gather(y, layout.axes, tiled=True)
    others = _block_gradient(x, everyone, scalars, layout)
    return jax.tree.map(jnp.add, others, _own_gradient(x, y, layout))


def _ring_forward(image: dict, text: dict, scalars: dict, layout: vjp.Layout) -> tuple:
    def block(x, y):
        logits = scalars["scale"] * blocks.similarity(x, y)
        return [_statistics(logits, x, y, layout, axis=axis) for axis in (1, 0)]

    rows, columns = ring.statistics(block, image, text, layout)
    return _finish(image, text, rows, columns, scalars, layout)


def _ring_gradient(x: dict, y: dict, scalars: dict, layout: vjp.Layout) -> tuple:
    def block(x, y):
        return _block_gradient(x, y, scalars, layout)

    others = ring.gradient(block, x, y, layout)
    return jax.tree.map(jnp.add, others, _own_gradient(x, y, layout))
