"""Adding a bias, whose gradient is summed over all tokens by a kernel.

Forward the compiler adds it within the product before. Backward its own sum over examples and
tokens takes seven times as long as reading the gradient once.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.models.kernels import rows
from clipjax.models.kernels.rows import KernelMesh


def add_bias(
    x: jax.Array, bias: jax.Array, *, kernel_mesh: KernelMesh | None, features: str | None = None
) -> jax.Array:
    """x + bias, [B, T, D] and [D] of one dtype; plainly if kernel_mesh is None.

    `features` is the mesh axis that D is split over, None if it is whole everywhere.
    """
    return x + bias if kernel_mesh is None else _add(x, bias, kernel_mesh, features)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _add(x: Any, bias: Any, kernel_mesh: KernelMesh, features: str | None) -> Any:
    return x + bias


def _forward(x: Any, bias: Any, kernel_mesh: KernelMesh, features: str | None) -> Any:
    return x + bias, None


def _backward(
    kernel_mesh: KernelMesh, features: str | None, residuals: None, d_out: jax.Array
) -> Any:
    (sums,) = rows.run(sum_tokens, d_out, kernel_mesh=kernel_mesh, features=features, sums=1)
    return d_out, jnp.sum(sums, axis=(0, 1)).astype(d_out.dtype)


_add.defvjp(_forward, _backward)


def sum_tokens(x: Any, total: Any) -> None:
    """Kernel: features of one example → their sum over the tokens."""
    total[0] = jnp.sum(x[0].astype(jnp.float32), axis=0, keepdims=True)
