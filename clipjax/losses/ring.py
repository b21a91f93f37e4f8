"""The ring: every device meets every other device's rows, and holds few of them at any one time.

Called by `softmax.py` and `sigmoid.py` inside `shard_map`. Each device keeps its rows x and
passes rows y to its neighbour, one chunk after the other, so that beside its own rows a device
holds one travelling block and at most block_size x block_size logits, whatever the number of
devices.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.losses import blocks, ring_route
from clipjax.losses.vjp import Layout


def statistics(block: Callable, image: dict, text: dict, layout: Layout) -> tuple[dict, dict]:
    """Finished statistics of this device's image rows and text rows, each against all of the other.

    block(x, y) gives the statistics (see `blocks.py`) of rows x against y, float32 [b], and of y
    against x, [c]. Column statistics travel with their rows y; row statistics stay.
    """
    total = image["index"].shape[0]
    image, text = _chunk(image, layout.block_size), _chunk(text, layout.block_size)
    chunks = image["index"].shape[0]
    row_kinds, column_kinds = jax.eval_shape(block, _take(image, 0), _take(text, 0))
    shape = image["index"].shape
    rows = _varying(_pack(blocks.nothing(row_kinds, shape)), layout.axes)
    columns = _varying(_pack(blocks.nothing(column_kinds, shape)), layout.axes)
    packed = _pack(image)

    def merge(a, b, kinds):
        return _pack(blocks.merge(_unpack(a, kinds), _unpack(b, kinds)))

    # The inner loop walks our own rows in chunks, so that a block of logits is at most
    # [block_size, block_size] however many rows a device has.
    def visit(y, rows):
        def one(i, state):
            rows, column = state
            row, more_column = block(_unpack(_take(packed, i), image), y)
            rows = _put(rows, i, merge(_take(rows, i), _pack(row), row_kinds))
            return rows, merge(column, _pack(more_column), column_kinds)

        return jax.lax.fori_loop(0, chunks, one, (rows, _take(columns, 0)))

    def merge_columns(a, b):
        return merge(a, b, column_kinds)

    rows, columns = _travel(visit, rows, text, columns, merge=merge_columns, layout=layout)
    return _unchunk(_unpack(rows, row_kinds), total), _unchunk(
        _unpack(columns, column_kinds), total
    )


def gradient(block: Callable, x: dict, y: dict, layout: Layout) -> tuple[jax.Array, dict]:
    """Sum over all rows y of block(x, y): float32 [b, E] for rows x, and a dict of scalars."""
    total = x["index"].shape[0]
    x, y = _chunk(x, layout.block_size), _chunk(y, layout.block_size)
    embed_part, scalar_parts = jax.eval_shape(block, _take(x, 0), _take(y, 0))
    chunks = x["index"].shape[0]
    d_embed = jnp.zeros((chunks, *embed_part.shape), jnp.float32)
    d_scalars = {name: jnp.zeros(()) for name in scalar_parts}
    packed = _pack(x)

    def visit(y, carry):
        def one(i, carry):
            d_embed, d_scalars = carry
            embed_part, scalar_parts = block(_unpack(_take(packed, i), x), y)
            d_embed = _put(d_embed, i, _take(d_embed, i) + embed_part)
            return d_embed, jax.tree.map(jnp.add, d_scalars, scalar_parts)

        return jax.lax.fori_loop(0, chunks, one, carry), {}

    start = _varying((d_embed, d_scalars), layout.axes)
    (d_embed, d_scalars), _ = _travel(visit, start, y, {}, merge=lambda a, b: {}, layout=layout)
    return _unchunk(d_embed, total), d_scalars


def _travel(
    visit: Callable[[dict, Any], tuple[Any, dict]],
    carry: Any,
    y: dict,
    notes: dict,
    *,
    merge: Callable[[dict, dict], dict],
    layout: Layout,
) -> tuple[Any, dict]:
    """Show every device each chunk of everyone's y once; notes about a chunk travel with it.

    visit(chunk of y, carry) returns the new carry and this device's note on that chunk; merge
    joins two notes. y and notes have leaves [chunks, ...]. Returns the last carry, and at each
    chunk's owner the notes of all devices merged.

    A chunk leaves for the neighbour before `visit` begins, and the next one is awaited after it.
    So that notes need not wait for `visit` either, they travel one round behind their chunk: what
    a device sends is what it finished in the round before, and the neighbour, which holds that
    chunk now, adds its own.
    """
    pairs = ring_route.neighbours(layout.mesh, layout.axes)
    devices = len(pairs)
    chunks = y["index"].shape[0]

    def to_neighbour(tree):
        if devices == 1:
            return tree
        return jax.lax.ppermute(tree, layout.axes, pairs)

    # Round t works on slot t % chunks: what lies there came from the neighbour `chunks` rounds ago.
    # After devices × chunks rounds every chunk has seen every device and is back at its owner.
    def turn(t, state):
        held, notes, carry = state
        j = t % chunks
        current = _take(held, j)
        arriving, noted = to_neighbour((current, _take(notes, j)))
        carry, note = visit(_unpack(current, y), carry)
        return _put(held, j, arriving), _put(notes, j, merge(noted, note)), carry

    _, notes, carry = jax.lax.fori_loop(0, devices * chunks, turn, (_pack(y), notes, carry))
    # Notes are one round behind their chunk, so they have one step left to their owner.
    return carry, to_neighbour(notes)


def _chunk(side: dict, block_size: int | None) -> dict:
    """Leaves [b, ...] as [chunks, rows, ...] with rows <= block_size; `real` is 0 for padding."""
    # Chunks of equal size, one kernel shape for all: 1,030 rows in blocks of 1,024 are two of 515.
    total = side["index"].shape[0]
    chunks = math.ceil(total / (block_size or total))
    rows = math.ceil(total / chunks)
    padding = chunks * rows - total
    if padding:
        side = side | {"real": jnp.ones_like(side["index"])}
        side = {
            name: jnp.pad(leaf, [(0, padding)] + [(0, 0)] * (leaf.ndim - 1))
            for name, leaf in side.items()
        }
    return jax.tree.map(lambda leaf: leaf.reshape(chunks, rows, *leaf.shape[1:]), side)


def _unchunk(tree: Any, total: int) -> Any:
    """Leaves [chunks, rows, ...] as [total, ...], padding dropped."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:total], tree)


def _pack(leaves: dict) -> dict:
    """All leaves but `embed`, each [..., rows] of 4 bytes, as one uint32 [..., leaves, rows].

    One transfer and one slice where there would be one for each, and each has a fixed cost.
    """
    vectors = [leaf for name, leaf in sorted(leaves.items()) if name != "embed"]
    words = [jax.lax.bitcast_convert_type(vector, jnp.uint32) for vector in vectors]
    embed = {"embed": leaves["embed"]} if "embed" in leaves else {}
    return embed | {"vectors": jnp.stack(words, axis=-2)}


def _unpack(packed: dict, kinds: dict) -> dict:
    """The inverse of `_pack`; kinds has the names and dtypes."""
    vectors = {name: kind.dtype for name, kind in sorted(kinds.items()) if name != "embed"}
    embed = {"embed": packed["embed"]} if "embed" in packed else {}
    return embed | {
        name: jax.lax.bitcast_convert_type(packed["vectors"][..., i, :], dtype)
        for i, (name, dtype) in enumerate(vectors.items())
    }


def _take(tree: Any, i: int | jax.Array) -> Any:
    """Row i of every leaf."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, i, keepdims=False), tree)


def _put(tree: Any, i: jax.Array, row: Any) -> Any:
    """Every leaf with its row i replaced."""
    return jax.tree.map(
        lambda leaf, new: jax.lax.dynamic_update_index_in_dim(leaf, new, i, axis=0), tree, row
    )


def _varying(tree: Any, axes: tuple[str, ...]) -> Any:
    """Constants as values that differ from device to device, as a loop's carry has to be."""
    if hasattr(jax.lax, "pcast"):  # jax 0.8.2 and newer
        return jax.tree.map(lambda leaf: jax.lax.pcast(leaf, axes, to="varying"), tree)
    return jax.tree.map(lambda leaf: jax.lax.pvary(leaf, axes), tree)  # pyright: ignore
