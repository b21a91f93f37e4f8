"""A batch larger than memory: towers see it in micro-batches, the loss sees it whole.

First every micro-batch is embedded without gradient; then one loss on the whole global batch, with
one exchange between devices, gives the gradient of every embedding; then each micro-batch is
embedded again, and its embeddings' gradients are pulled back through the towers. The result is the
un-accumulated step's, the gradient of logit scale and bias included: the loss is made once (Gao et
al. 2021, "Scaling deep contrastive learning batch size under memory limited setup"). BatchNorm sees
a micro-batch of all devices at a time; running averages move once, towards the micro-batches' mean.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from clipjax.training.objectives import Objective

Embed = Callable[..., tuple[dict[str, jax.Array], Any]]


def make_gradient(
    embed: Embed,
    scalars: Callable[[Any], dict[str, jax.Array]],
    *,
    objective: Objective,
    micro_batches: int,
    mesh: Mesh,
    batch_axes: tuple[str, ...],
) -> Callable[..., Any]:
    """The gradient of an objective, for any number of micro-batches.

    Args:
      embed, scalars: of the model, see `training/forward.py`; outputs are arrays [b, ...].
      objective: of the whole batch, see `training/objectives/__init__.py`.
      micro_batches: k; 1 is the plain gradient. Micro-batch j is the j-th part of each device's
        own rows, so that no row changes its device.
      mesh, batch_axes: where the batch lies.

    Returns:
      A function (params, batch_stats, batch) → ((loss, (metrics, new batch_stats)), gradients).
    """
    objective = partial(objective, mesh=mesh, batch_axes=batch_axes)

    def plain(params: Any, batch_stats: Any, batch: dict[str, jax.Array]) -> Any:
        def loss(params: Any) -> Any:
            outputs, new_stats = embed(params, batch_stats, *_inputs(batch))
            value, metrics = objective(outputs | scalars(params), batch)
            return value, (metrics, new_stats)

        return jax.value_and_grad(loss, has_aux=True)(params)

    def accumulated(params: Any, batch_stats: Any, batch: dict[str, jax.Array]) -> Any:
        split, join = (
            partial(f, count=micro_batches, mesh=mesh, axes=batch_axes) for f in (_split, _join)
        )
        # First pass, without gradient: of each micro-batch only the embeddings stay.
        parts = tuple(map(split, _inputs(batch)))  # [k, B / k, ...]
        _, (embeds, all_stats) = jax.lax.scan(
            lambda _, part: (None, embed(params, batch_stats, *part)), None, parts
        )
        # Each is a tenth of the way from the same averages: their mean is a tenth of the way to
        # the mean.
        new_stats = jax.tree.map(lambda x: jnp.mean(x, axis=0), all_stats)
        outputs = {name: join(x) for name, x in embeds.items()}  # [B, E]

        def loss(outputs: Any, params: Any) -> Any:
            value, metrics = objective(outputs | scalars(params), batch)
            return value, (metrics, new_stats)

        # One loss, and one exchange between devices, on the whole global batch. It gives the
        # scalars' gradient at once, and of the embeddings what the towers are to be pulled by.
        value, (d_outputs, gradients) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
            outputs, params
        )

        # Second pass: embed again, and pull each part's gradient back. Whatever is drawn at random
        # is an input (`patches`), so that both passes see the same.
        def replay(total: Any, part: Any) -> Any:
            inputs, d_embeds = part
            _, pull_back = jax.vjp(lambda params: embed(params, batch_stats, *inputs)[0], params)
            return jax.tree.map(jnp.add, total, pull_back(d_embeds)[0]), None

        d_embeds = {name: split(x) for name, x in d_outputs.items()}
        gradients, _ = jax.lax.scan(replay, gradients, (parts, d_embeds))
        return value, gradients

    return plain if micro_batches == 1 else accumulated


def _inputs(batch: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
    """What the towers see, in the order of `embed`; `patches` only where some are left out."""
    return tuple(batch[name] for name in ("image", "text", "patches") if name in batch)


def _split(x: jax.Array, *, count: int, mesh: Mesh, axes: tuple[str, ...]) -> jax.Array:
    """[B, ...] → [k, B / k, ...]: each device's rows in k parts, none moves."""

    def local(x: jax.Array) -> jax.Array:
        return x.reshape(count, -1, *x.shape[1:])

    return jax.shard_map(local, mesh=mesh, in_specs=P(axes), out_specs=P(None, axes))(x)


def _join(x: jax.Array, *, count: int, mesh: Mesh, axes: tuple[str, ...]) -> jax.Array:
    """The inverse of `_split`."""
    del count

    def local(x: jax.Array) -> jax.Array:
        return x.reshape(-1, *x.shape[2:])

    return jax.shard_map(local, mesh=mesh, in_specs=P(None, axes), out_specs=P(axes))(x)
