"""Self-attention over a few hundred tokens in one kernel, forward and backward.

The scores of one head, float32 [T, T], live and die in the core's own memory (VMEM); main memory
sees query, key, value and the result, once each. Nothing but the operands is kept for the backward
pass, which makes the scores again. `models/attention.py` holds the plain form, its oracle.

Operands are [B, T, H·K], heads side by side, as the projections write them. A register row is 128
features wide, so heads of K = 64 lie there in pairs. They are never taken apart: zeroing the other
head's features in one operand of a product leaves this head's product, at the same cost, because a
matrix unit contracts 128 features at a time anyway.

An image of 16 × 16 patches and its class token make 257 tokens, one more than register rows of
scores hold. The forward kernel takes such a last key apart from the others, as a column of scores:
1.18 M cycles become 0.74 M for 128 images of ViT-L/14 on v5e (compiler's schedule). Backward, where
transposes take the time, that gains nothing.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from clipjax.models.kernels import rows
from clipjax.models.kernels.rows import KernelMesh

LANES = 128  # features in one register row, on every TPU so far
LOG2_E = 1.4426950408889634


def fits(*, tokens: int, width: int, heads: int, kernel_mesh: KernelMesh) -> bool:
    """Whether the kernel takes such operands: whole heads in register rows, scores in VMEM.

    Args:
      tokens: T.
      width: H·K, of the global arrays.
      heads: H.
      kernel_mesh: the devices it runs on.
    """
    local = width // kernel_mesh.mesh.shape["tensor"]
    buffers = 2 * 7 * tokens * local * 4  # backward, each operand and result twice, float32
    scores = 6 * (tokens + LANES) ** 2 * 4
    in_rows = heads > 0 and LANES % (width // heads) == 0 and local % LANES == 0
    return in_rows and buffers + scores <= rows.VMEM_BYTES


def attention(
    query: jax.Array,
    *,
    key: jax.Array,
    value: jax.Array,
    heads: int,
    causal: bool,
    kernel_mesh: KernelMesh,
) -> jax.Array:
    """softmax(query · keyᵀ / √K) · value, each [B, T, H·K] → [B, T, H·K]; differentiable.

    Products take operands in the inputs' dtype and sum in float32, the softmax is float32.

    Args:
      query, key, value: global arrays; rows over `data` × `fsdp`, heads over `tensor`.
      heads: H, of the global arrays; `fits` says which shapes will do.
      causal: whether position T may look at positions S ≤ T only.
      kernel_mesh: the devices it runs on.
    """
    return _attention(query, key, value, query.shape[-1] // heads, causal, kernel_mesh)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _attention(
    query: Any, key: Any, value: Any, head_width: int, causal: bool, kernel_mesh: KernelMesh
) -> Any:
    return _forward(query, key, value, head_width, causal, kernel_mesh)[0]


def _forward(
    query: Any, key: Any, value: Any, head_width: int, causal: bool, kernel_mesh: KernelMesh
) -> Any:
    operands = (query, key, value)
    settings = {"head_width": head_width, "causal": causal}
    (out,) = rows.run(
        attention_forward,
        *operands,
        kernel_mesh=kernel_mesh,
        features="tensor",
        results=1,
        **settings,
    )
    return out, operands


def _backward(
    head_width: int, causal: bool, kernel_mesh: KernelMesh, operands: Any, d_out: Any
) -> Any:
    settings = {"head_width": head_width, "causal": causal}
    return tuple(
        rows.run(
            attention_backward,
            *operands,
            d_out,
            kernel_mesh=kernel_mesh,
            features="tensor",
            results=3,
            **settings,
        )
    )


_attention.defvjp(_forward, _backward)


def attention_forward(*refs: Any, head_width: int, causal: bool) -> None:
    """Kernel: query, key, value → the mixed values."""
    *operands, result = refs
    for features, heads in _register_rows(result.shape[-1], head_width):
        query, key, value = (ref[0, :, features] for ref in operands)  # [T, 128]
        out = jnp.zeros(query.shape, jnp.float32)
        mix = _mix_with_last_apart if len(key) % LANES == 1 and not causal else _mix
        for own in heads:
            mixed = mix(query, jnp.where(own, key, 0), value, head_width=head_width, causal=causal)
            out = jnp.where(own, mixed, out)
        result[0, :, features] = out.astype(result.dtype)


def _mix(
    query: jax.Array, key: jax.Array, value: jax.Array, *, head_width: int, causal: bool
) -> jax.Array:
    """The values mixed by one head, float32 [T, 128]."""
    weights, total = _weights(query, key, head_width, causal)
    return _dot(weights.astype(value.dtype), value, contract=(1, 0)) * (1 / total)


def _mix_with_last_apart(
    query: jax.Array, key: jax.Array, value: jax.Array, *, head_width: int, causal: bool
) -> jax.Array:
    """`_mix` without causality; the last key and value are added by hand."""
    del causal
    scale = head_width**-0.5 * LOG2_E
    scores = _dot(query, key[:-1], contract=(1, 1)) * scale  # [T, T - 1]
    last = query.astype(jnp.float32) * key[-1:].astype(jnp.float32)
    last = jnp.sum(last, axis=1, keepdims=True) * scale  # [T, 1]
    largest = jnp.maximum(jnp.max(scores, axis=1, keepdims=True), last)
    weights, last = jnp.exp2(scores - largest), jnp.exp2(last - largest)
    total = jnp.sum(weights, axis=1, keepdims=True) + last
    mixed = _dot(weights.astype(value.dtype), value[:-1], contract=(1, 0))
    return (mixed + last * value[-1:].astype(jnp.float32)) * (1 / total)


def attention_backward(*refs: Any, head_width: int, causal: bool) -> None:
    """Kernel: query, key, value, gradient of the result → gradients of query, key, value."""
    operands, results = refs[:4], refs[4:]
    for features, heads in _register_rows(results[0].shape[-1], head_width):
        query, key, value, d_out = (ref[0, :, features] for ref in operands)  # [T, 128]
        gradients = [jnp.zeros(query.shape, jnp.float32)] * 3
        for own in heads:
            weights, total = _weights(query, jnp.where(own, key, 0), head_width, causal)
            weights *= 1 / total
            d_weights = _dot(d_out, jnp.where(own, value, 0), contract=(1, 1))
            # Softmax backward: d scores = weights ⊙ (d weights - their mean under the weights).
            mean = jnp.sum(weights * d_weights, axis=1, keepdims=True)
            d_scores = weights * (d_weights - mean) * head_width**-0.5
            d_scores, weights = d_scores.astype(query.dtype), weights.astype(query.dtype)
            parts = (
                _dot(d_scores, key, contract=(1, 0)),
                _dot(d_scores, query, contract=(0, 0)),
                _dot(weights, d_out, contract=(0, 0)),
            )
            gradients = [jnp.where(own, *pair) for pair in zip(parts, gradients, strict=True)]
        for result, gradient in zip(results, gradients, strict=True):
            result[0, :, features] = gradient.astype(result.dtype)


def _weights(
    query: jax.Array, key: jax.Array, head_width: int, causal: bool
) -> tuple[jax.Array, jax.Array]:
    """Softmax of one head before the division: float32 [T, S], and what to divide by, [T, 1]."""
    scores = _dot(query, key, contract=(1, 1)) * (head_width**-0.5 * LOG2_E)
    if causal:
        position, other = (lax.broadcasted_iota(jnp.int32, scores.shape, axis) for axis in (0, 1))
        scores = jnp.where(other <= position, scores, -jnp.inf)
    # The division by the sum waits until after the product with the values: [T, 128], not [T, T].
    weights = jnp.exp2(scores - jnp.max(scores, axis=1, keepdims=True))
    return weights, jnp.sum(weights, axis=1, keepdims=True)


def _register_rows(width: int, head_width: int) -> Iterator[tuple[slice, list[jax.Array]]]:
    """(slice of 128 features, [bool [1, 128] of each head's own features]) over the width."""
    lane = lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
    for start in range(0, width, LANES):
        yield (
            slice(start, start + LANES),
            [(lane >= h) & (lane < h + head_width) for h in range(0, LANES, head_width)],
        )


def _dot(x: jax.Array, y: jax.Array, *, contract: tuple[int, int]) -> jax.Array:
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32)
