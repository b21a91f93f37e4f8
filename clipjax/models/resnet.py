"""The image tower as one of CLIP's five modified ResNets (paper section 2.4, released model.py).

Three changes to a ResNet-50: a stem of three convolutions; average pooling wherever the plain one
has a convolution of stride 2 ("anti-aliased"); attention pooling instead of the mean.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from clipjax.models.attention import QueryAttention
from clipjax.models.batch_norm import BatchNorm
from clipjax.models.compute import Compute, Constrain
from clipjax.models.config import ResNetConfig
from clipjax.models.layers import Initializer
from clipjax.models.transformer import REMAT_POLICIES

EXPANSION = 4  # a block's outer width over its inner one


class ConvNorm(nn.Module):
    """A convolution without bias, BatchNorm, and ReLU unless `last`; `size` × `size`, "same".

    The kernel starts as PyTorch's do: uniform within ± fan_in^-½.
    """

    features: int
    size: int
    train: bool
    dtype: Any
    param_dtype: Any
    stride: int = 1
    last: bool = False
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.Conv(
            self.features,
            (self.size, self.size),
            strides=self.stride,
            padding=self.size // 2,  # not "SAME", which pads even sizes on one side at stride 2
            use_bias=False,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            name="conv",
            **dtypes,
        )(x)
        x = BatchNorm(self.train, scale_init=self.scale_init, name="norm", **dtypes)(x)
        return x if self.last else nn.relu(x)


class Bottleneck(nn.Module):
    """x + three convolutions of x, [B, H, W, C] → [B, H/s, W/s, 4 · inner] in `dtype`.

    All strides are pools. The last BatchNorm's gain starts at 0: a new block adds nothing.
    """

    inner: int
    stride: int
    train: bool
    dtype: Any
    param_dtype: Any
    constrain: Constrain

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shared = {"train": self.train, "dtype": self.dtype, "param_dtype": self.param_dtype}
        outer = EXPANSION * self.inner
        y = ConvNorm(self.inner, 1, name="in", **shared)(x)
        y = ConvNorm(self.inner, 3, name="middle", **shared)(y)
        zeros = nn.initializers.zeros
        y = ConvNorm(outer, 1, last=True, scale_init=zeros, name="out", **shared)(self.pool(y))
        if self.stride > 1 or x.shape[-1] != outer:
            x = ConvNorm(outer, 1, last=True, name="shortcut", **shared)(self.pool(x))
        return self.constrain(nn.relu(x + y))

    def pool(self, x: jax.Array) -> jax.Array:
        """The mean of each `stride` × `stride` square."""
        window = (self.stride, self.stride)
        return nn.avg_pool(x, window, strides=window) if self.stride > 1 else x


class AttentionPool(nn.Module):
    """One attention whose only query is the tokens' mean. [B, H, W, C] → [B, E] in `dtype`.

    The mean is a token too, and all have learned positions, N(0, C^-½) as the four matrices.
    """

    heads: int
    features: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        normal = nn.initializers.normal(width**-0.5)
        x = x.reshape(len(x), -1, width)
        mean = jnp.mean(x, axis=1, keepdims=True, dtype=jnp.float32).astype(x.dtype)
        x = jnp.concatenate([mean, x], axis=1)  # [B, 1 + H·W, C]
        positions = self.param("position_embedding", normal, x.shape[1:], self.param_dtype)
        x = x + positions.astype(self.dtype)
        return QueryAttention(
            self.heads,
            self.features,
            normal,
            normal,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="attention",
        )(x[:, :1], x)[:, 0]


class ModifiedResNet(nn.Module):
    """Normalised pixels float32 [B, S, S, 3] → float32 [B, E], not yet L2-normalised.

    `train` normalises with the batch's own statistics and updates collection `batch_stats`.
    """

    config: ResNetConfig
    embed_dim: int
    compute: Compute

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False, project: bool = True) -> jax.Array:
        del project  # the pool ends in the joint space
        tower, compute, dtypes = self.config, self.compute, self.compute.dtypes
        shared = {"train": train, **dtypes}
        policy = REMAT_POLICIES[tower.remat]
        block = Bottleneck if policy is None else nn.remat(Bottleneck, policy=policy)

        x = image.astype(compute.dtype)
        x = ConvNorm(tower.width // 2, 3, stride=2, name="stem_1", **shared)(x)
        x = ConvNorm(tower.width // 2, 3, name="stem_2", **shared)(x)
        x = ConvNorm(tower.width, 3, name="stem_3", **shared)(x)
        x = compute.constrain(nn.avg_pool(x, (2, 2), strides=(2, 2)))  # [B, S/4, S/4, width]
        for stage, count in enumerate(tower.layers):
            for i in range(count):
                x = block(
                    tower.width * 2**stage,
                    stride=2 if stage and not i else 1,
                    constrain=compute.constrain,
                    name=f"stage_{stage + 1}_block_{i}",
                    **shared,
                )(x)
        pool = AttentionPool(x.shape[-1] // tower.head_width, self.embed_dim, name="pool", **dtypes)
        return pool(x).astype(jnp.float32)  # [B, E]
