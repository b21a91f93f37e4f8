"""From what one device does to a differentiable loss over global arrays. Used by every loss here.

The custom VJP sits at the level of global arrays: the forward pass is one `shard_map`, the
backward pass another, so nothing differentiates through a collective. (A custom VJP inside a
`shard_map` that is differentiated from outside gives gradients divided by the number of devices.)

The backward pass is one-sided: the gradient of row x needs x, all rows y of the other side, and
what the forward pass saved of each row (for softmax its log-sum-exp). The pair relation is
symmetric, so one function serves images against texts and texts against images; every device
finishes the gradients of its own rows, and no gradient travels.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from clipjax.losses import blocks
from clipjax.losses.positives import Positives


@dataclasses.dataclass(frozen=True)
class Method:
    """What a device does in each pass. Sides are as in `blocks.py`, scalars {"scale", "bias"}.

    forward(image, text, scalars, layout) -> loss, metrics, (image_saved, text_saved): the loss and
        metrics are global; saved are dicts of float32 [b] added to the sides of the backward pass.
    gradient(x, y, scalars, layout) -> float32 [b, E] and {"scale", "bias"}: the gradient of
        B x loss with respect to scale x x.embed, and to the scalars (this device's part).
    """

    forward: Callable
    gradient: Callable


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the batch lies on the devices and in chunks (None: one), and which pairs match."""

    mesh: Mesh
    axes: tuple[str, ...]
    mode: str | None
    block_size: int | None


def apply(
    method: Method,
    image_embed: jax.Array,
    text_embed: jax.Array,
    *,
    logit_scale: jax.Array,
    logit_bias: jax.Array | float,
    mesh: Mesh,
    batch_axes: str | tuple[str, ...],
    positives: Positives | None,
    block_size: int | None = None,
) -> tuple[jax.Array, dict]:
    """Loss and metrics of global arrays by `method`; see `clipjax.losses.get`."""
    axes = (batch_axes,) if isinstance(batch_axes, str) else tuple(batch_axes)
    ids, mode = {}, None
    if positives is not None:
        ids = {"image_id": positives.image_id, "text_id": positives.text_id}
        mode = positives.mode
    layout = Layout(mesh=mesh, axes=axes, mode=mode, block_size=block_size)
    scalars = {"scale": jnp.float32(logit_scale), "bias": jnp.float32(logit_bias)}
    return _loss(method, layout, image_embed, text_embed, scalars, ids)


def _forward(method, layout, image_embed, text_embed, scalars, ids):
    def on_device(image_embed, text_embed, scalars, ids):
        image = blocks.side(image_embed, ids, axes=layout.axes)
        text = blocks.side(text_embed, ids, axes=layout.axes)
        return method.forward(image, text, scalars, layout)

    sharded, whole = PartitionSpec(layout.axes), PartitionSpec()
    loss, metrics, saved = jax.shard_map(
        on_device,
        mesh=layout.mesh,
        in_specs=(sharded, sharded, whole, sharded),
        out_specs=(whole, whole, sharded),
    )(image_embed, text_embed, scalars, ids)
    return (loss, metrics), (image_embed, text_embed, scalars, ids, saved)


def _backward(method, layout, residuals, cotangents):
    image_embed, text_embed, scalars, ids, saved = residuals
    # The loss is a mean over the global batch: `method.gradient` is of its sum, B × loss.
    per_pair = cotangents[0] / image_embed.shape[0]  # metrics carry no gradient

    def on_device(image_embed, text_embed, scalars, ids, saved, per_pair):
        image = blocks.side(image_embed, ids | saved[0], axes=layout.axes)
        text = blocks.side(text_embed, ids | saved[1], axes=layout.axes)
        # d loss / d x = scale × d loss / d (scale · x): logits depend on the product alone.
        factor = per_pair * scalars["scale"]
        d_image, d_scalars = method.gradient(image, text, scalars, layout)
        d_image = (factor * d_image).astype(image_embed.dtype)
        # One side after the other: both sums at once, in float32, would double the memory.
        d_image, image, text = jax.lax.optimization_barrier((d_image, image, text))
        # The scalars' gradient is complete in one pass: each pair was met once.
        d_text, _ = method.gradient(text, image, scalars, layout)
        d_text = (factor * d_text).astype(text_embed.dtype)
        d_scalars = jax.tree.map(lambda part: per_pair * jax.lax.psum(part, layout.axes), d_scalars)
        return d_image, d_text, d_scalars

    sharded, whole = PartitionSpec(layout.axes), PartitionSpec()
    gradients = jax.shard_map(
        on_device,
        mesh=layout.mesh,
        in_specs=(sharded, sharded, whole, sharded, sharded, whole),
        out_specs=(sharded, sharded, whole),
    )(image_embed, text_embed, scalars, ids, saved, per_pair)
    return *gradients, None  # ids have no gradient


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss(method, layout, image_embed, text_embed, scalars, ids):
    return _forward(method, layout, image_embed, text_embed, scalars, ids)[0]


_loss.defvjp(_forward, _backward)
