"""The image tower: a Vision Transformer with a class token and a LayerNorm before the blocks."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from clipjax.models.kernels.rows import Place
from clipjax.models.layers import LayerNorm, Linear
from clipjax.models.transformer import Constrain, apply_blocks


class PatchEmbedding(nn.Module):
    """Non-overlapping patches times `kernel` [P, P, 3, D], no bias. [B, H, W, 3] → [B, N, D].

    N = H/P · W/P patches in row-major order. The kernel starts as PyTorch's convolutions do (the
    release keeps that default): uniform within ±(3 P²)^-½.
    """

    patch_size: int
    width: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        batch, height, width, channels = image.shape
        size = self.patch_size
        kernel = self.param(
            "kernel",
            nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            (size, size, channels, self.width),
            self.param_dtype,
        )
        image = image.reshape(batch, height // size, size, width // size, size, channels)
        patches = image.transpose(0, 1, 3, 2, 4, 5)
        patches = patches.reshape(batch, -1, size * size * channels)
        # A matrix product, not a convolution: the same sum, and quick on every backend.
        return patches.astype(self.dtype) @ kernel.astype(self.dtype).reshape(-1, self.width)


class VisionTransformer(nn.Module):
    """Normalised pixels float32 [B, H, W, 3] → float32 [B, E], not yet L2-normalised.

    Class token, learned positions, `ln_pre`, blocks, `ln_post` on the class token, projection
    (paper section 2.4, released model.py). Class token, positions and projection start as
    N(0, D^-½).
    """

    embed_dim: int
    image_size: int
    patch_size: int
    width: int
    layers: int
    head_width: int
    mlp_ratio: float
    activation: str
    remat: str
    scan: bool
    dtype: Any
    param_dtype: Any
    constrain: Constrain
    place: Place | None = None

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        normal = nn.initializers.normal(self.width**-0.5)
        tokens = 1 + (self.image_size // self.patch_size) ** 2

        x = PatchEmbedding(self.patch_size, self.width, name="patch_embedding", **dtypes)(image)
        class_token = self.param("class_embedding", normal, (self.width,), self.param_dtype)
        class_token = jnp.broadcast_to(
            class_token.astype(self.dtype), (len(x), 1, self.width)
        )  # [B, 1, D]
        x = jnp.concatenate([class_token, x], axis=1)  # [B, T, D]
        positions = self.param(
            "position_embedding", normal, (tokens, self.width), self.param_dtype
        )  # [T, D]
        x = self.constrain(x + positions.astype(self.dtype))
        x = LayerNorm(name="ln_pre", **dtypes)(x)
        x = apply_blocks(
            x,
            scan=self.scan,
            remat=self.remat,
            layers=self.layers,
            heads=self.width // self.head_width,
            mlp_width=int(self.width * self.mlp_ratio),
            activation=self.activation,
            constrain=self.constrain,
            place=self.place,
            **dtypes,
        )
        x = LayerNorm(name="ln_post", **dtypes)(x[:, 0])  # [B, D]
        return Linear(self.embed_dim, normal, name="projection", **dtypes)(x)  # [B, E]
