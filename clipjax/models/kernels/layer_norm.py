"""LayerNorm in one kernel, forward and backward: one pass over main memory each.

The compiler's own takes three passes forward, mean, variance, result, and as many back.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from clipjax.models.kernels import rows
from clipjax.models.kernels.rows import KernelMesh


def layer_norm(
    x: jax.Array, *, scale: jax.Array, bias: jax.Array, epsilon: float, kernel_mesh: KernelMesh
) -> tuple[jax.Array, jax.Array]:
    """(x, LayerNorm of x over its features); differentiable. Both [B, T, D] in x's dtype.

    x comes back so that the gradients of both ways on, around the norm and through it, are added
    in the backward kernel. Statistics and scaling are float32, and the variance is of what is left
    after the mean is taken off.

    Args:
      x: global array, rows over `data` × `fsdp`.
      scale, bias: [D].
      epsilon: added to the variance.
      kernel_mesh: the devices it runs on.
    """
    return _norm(x, scale, bias, epsilon, kernel_mesh)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _norm(x: Any, scale: Any, bias: Any, epsilon: float, kernel_mesh: KernelMesh) -> Any:
    return _forward(x, scale, bias, epsilon, kernel_mesh)[0]


def _forward(x: Any, scale: Any, bias: Any, epsilon: float, kernel_mesh: KernelMesh) -> Any:
    shared = (scale[None], bias[None])
    (out,) = rows.run(
        layer_norm_forward, x, *shared, kernel_mesh=kernel_mesh, results=1, epsilon=epsilon
    )
    return (x, out), (x, scale)


def _backward(epsilon: float, kernel_mesh: KernelMesh, residuals: Any, gradients: Any) -> Any:
    x, scale = residuals
    d_x, *sums = rows.run(
        layer_norm_backward,
        x,
        *gradients,
        scale[None],
        kernel_mesh=kernel_mesh,
        results=1,
        sums=2,
        epsilon=epsilon,
    )
    return d_x, *(jnp.sum(part, axis=(0, 1)).astype(scale.dtype) for part in sums)


_norm.defvjp(_forward, _backward)


def layer_norm_forward(x: Any, scale: Any, bias: Any, out: Any, *, epsilon: float) -> None:
    """Kernel: features, scale, bias → normalised, scaled and shifted features."""
    normal, _ = _normalise(x[0], epsilon)
    out[0] = (normal * scale[:] + bias[:]).astype(out.dtype)


def layer_norm_backward(
    x: Any,
    d_x: Any,
    d_out: Any,
    scale: Any,
    total: Any,
    d_scale: Any,
    d_bias: Any,
    *,
    epsilon: float,
) -> None:
    """Kernel: features, both gradients, scale → total gradient, sums for scale and bias."""
    normal, per_deviation = _normalise(x[0], epsilon)
    gradient = d_out[0].astype(jnp.float32)
    d_scale[0] = jnp.sum(gradient * normal, axis=0, keepdims=True)
    d_bias[0] = jnp.sum(gradient, axis=0, keepdims=True)
    gradient *= scale[:].astype(jnp.float32)
    along = jnp.mean(gradient * normal, axis=-1, keepdims=True)
    gradient -= jnp.mean(gradient, axis=-1, keepdims=True) + normal * along
    total[0] = (d_x[0].astype(jnp.float32) + gradient * per_deviation).astype(total.dtype)


def _normalise(x: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """Features with mean 0 and variance 1, float32 [T, D], and one over the deviation, [T, 1]."""
    x = x.astype(jnp.float32)
    x -= jnp.mean(x, axis=-1, keepdims=True)
    per_deviation = lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon)
    return x * per_deviation, per_deviation
