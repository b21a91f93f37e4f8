"""A fingerprint of every array of a tree, the same however the tree lies on devices.

orbax does not checksum values: one flipped bit in a file is loaded without a word. `checkpoint.py`
stores these at each save and compares them after each restore. Computed where the arrays are; only
eight bytes a leaf leave the device, and a host's arrays are looked through piece by piece.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.common import trees

UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
SALTS = (np.uint32(0x9E3779B9), np.uint32(0xC2B2AE35))
PIECE = 1 << 16  # elements of a host's array at a time, which stay in a core's cache


def digest(tree: Any) -> dict[str, str]:
    """ "float32[96,32] " and 16 hex digits by leaf name. A collective: all processes call it.

    A change of any one element changes its leaf's digest for certain; of several, with 2⁻⁶⁴ to
    spare. Arrays of 8-byte elements are not known here.
    """
    named = trees.named_leaves(tree)
    if all(isinstance(leaf, np.ndarray) for _, leaf in named):
        sums = [_host_leaf(leaf) for _, leaf in named]
    else:
        sums = np.asarray(_sums(tree))
    return {
        name: f"{kind(leaf)} {a:08x}{b:08x}"
        for (name, leaf), (a, b) in zip(named, sums, strict=True)
    }


def kind(leaf: Any) -> str:
    """Dtype and shape of an array, "float32[96,32]"."""
    return f"{np.dtype(leaf.dtype)}[{','.join(map(str, leaf.shape))}]"


def differing(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Names whose digests are not equal, or missing on one side."""
    return sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))


@jax.jit
def _sums(tree: Any) -> jax.Array:
    """uint32 [leaves, 2]. Sums of integers do not depend on the order, so not on the sharding."""
    return jnp.stack([_leaf(leaf) for leaf in jax.tree.leaves(tree)])


def _leaf(x: jax.Array) -> jax.Array:
    unsigned = UNSIGNED[x.dtype.itemsize]
    x = x.astype(unsigned) if x.dtype == bool else jax.lax.bitcast_convert_type(x, unsigned)
    position = jnp.zeros(x.shape, jnp.uint32)
    for axis, length in enumerate(x.shape):
        position = position * np.uint32(length) + jax.lax.broadcasted_iota(
            jnp.uint32, x.shape, axis
        )
    return jnp.stack(
        [jnp.sum(_mix(x.astype(jnp.uint32), position * salt), dtype=jnp.uint32) for salt in SALTS]
    )


def _host_leaf(x: np.ndarray) -> list[int]:
    """The same sums as `_leaf`, whose places are those in memory, modulo 2³²."""
    flat = np.ravel(x).view(np.dtype(UNSIGNED[x.dtype.itemsize]))
    sums = [0, 0]
    for start in range(0, flat.size, PIECE):
        value = flat[start : start + PIECE].astype(np.uint32)
        position = np.arange(start, start + value.size).astype(np.uint32)
        for i, salt in enumerate(SALTS):
            sums[i] += int(_mix(value, position * salt).sum(dtype=np.uint32))
    return [total & 0xFFFFFFFF for total in sums]


def _mix(value: Any, salt: Any) -> Any:
    """A bijection of the value for each salt (the finaliser of MurmurHash3)."""
    value = value ^ salt
    value = (value ^ (value >> 16)) * np.uint32(0x85EBCA6B)
    value = (value ^ (value >> 13)) * np.uint32(0xC2B2AE35)
    return value ^ (value >> 16)
