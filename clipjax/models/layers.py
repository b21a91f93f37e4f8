"""Small layers shared by both towers: activations, LayerNorm, dense layers, initialisers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from clipjax.models.kernels.bias import add_bias
from clipjax.models.kernels.rows import KernelMesh

Initializer = Callable[..., jax.Array]


def quick_gelu(x: jax.Array) -> jax.Array:
    """x · sigmoid(1.702 x), the released models' activation. Any shape; dtype kept."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: jax.Array) -> jax.Array:
    """The exact (erf) GELU, as PyTorch's `nn.GELU`. Any shape; dtype kept."""
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """GELU by its tanh approximation, SigLIP's. Any shape; dtype kept."""
    return jax.nn.gelu(x, approximate=True)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
}


def l2_normalize(x: jax.Array) -> jax.Array:
    """x divided by its Euclidean norm over the last axis, computed and returned in float32."""
    x = x.astype(jnp.float32)
    # The small constant keeps value and gradient finite for an all-zero row.
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-24)


def layer_norm(
    x: jax.Array, *, scale: jax.Array, bias: jax.Array, epsilon: float, dtype: Any
) -> jax.Array:
    """Features of mean 0 and variance 1, times `scale`, plus `bias`; [..., D], `dtype`.

    Statistics and scaling in float32 whatever the dtype, in two passes, because E[x²] − E[x]²
    cancels when the mean is large.
    """
    x = x.astype(jnp.float32)
    x -= jnp.mean(x, axis=-1, keepdims=True)
    x *= jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon)
    return (x * scale + bias).astype(dtype)


class NormParams(nn.Module):
    """`scale`, which starts as 1, and `bias`, as 0, of a LayerNorm over `width` features."""

    width: int
    param_dtype: Any

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        scale = self.param("scale", nn.initializers.ones, (self.width,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), self.param_dtype)
        return scale, bias


class LayerNorm(nn.Module):
    """`layer_norm` with its parameters. [..., D] → [..., D] in `dtype`."""

    epsilon: float
    dtype: Any
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (width,), self.param_dtype)
        return layer_norm(x, scale=scale, bias=bias, epsilon=self.epsilon, dtype=self.dtype)


class DenseParams(nn.Module):
    """`kernel` and `bias`, which starts as 0, of a matrix product, in `dtype`; the caller
    multiplies."""

    shape: tuple[int, ...]
    bias_shape: tuple[int, ...]
    kernel_init: Initializer
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", self.kernel_init, self.shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, self.bias_shape, self.param_dtype)
        return kernel.astype(self.dtype), bias.astype(self.dtype)


class Linear(nn.Module):
    """A matrix product, `kernel` [D, E] and perhaps `bias` [E]. Returns float32 [..., E].

    The projection into the joint space: operands in `dtype`, sums kept in float32, because the
    embeddings are normalised in float32 next.
    """

    features: int
    kernel_init: Initializer
    dtype: Any
    param_dtype: Any
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        x = jnp.einsum(
            "...D,DE->...E",
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
        if not self.use_bias:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        return x + bias.astype(jnp.float32)


class Mlp(nn.Module):
    """Dense to `hidden` features, activation, dense back. [B, T, D] → [B, T, D] in `dtype`."""

    hidden: int
    activation: str
    up_init: Initializer
    down_init: Initializer
    dtype: Any
    param_dtype: Any
    kernel_mesh: KernelMesh | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width = x.shape[-1]
        up, up_bias = DenseParams(
            (width, self.hidden), (self.hidden,), self.up_init, name="up", **dtypes
        )()
        down, down_bias = DenseParams(
            (self.hidden, width), (width,), self.down_init, name="down", **dtypes
        )()
        x = checkpoint_name(x @ up + up_bias, "mlp_hidden")  # [B, T, F]
        return add_bias(
            ACTIVATIONS[self.activation](x) @ down, down_bias, kernel_mesh=self.kernel_mesh
        )
