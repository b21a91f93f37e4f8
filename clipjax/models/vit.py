"""The image tower as a Vision Transformer: CLIP's and, by other settings, SigLIP's."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from clipjax.models.attention import QueryAttention
from clipjax.models.compute import Compute
from clipjax.models.config import BlockConfig, VisionConfig
from clipjax.models.layers import LayerNorm, Linear, Mlp
from clipjax.models.transformer import apply_blocks


class PatchEmbedding(nn.Module):
    """Non-overlapping patches times `kernel` [P, P, 3, D]. [B, H, W, 3] → [B, N, D].

    N = H/P · W/P patches in row-major order. The kernel starts as PyTorch's convolutions do (the
    release keeps that default): uniform within ±(3 P²)^-½.
    """

    patch_size: int
    width: int
    use_bias: bool
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
        x = patches.astype(self.dtype) @ kernel.astype(self.dtype).reshape(-1, self.width)
        if not self.use_bias:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.width,), self.param_dtype)
        return x + bias.astype(self.dtype)


class MapPool(nn.Module):
    """One learned query's attention over all tokens, then an MLP around: [B, T, D] → [B, D].

    "Multihead attention pooling" (Zhai et al. 2022, "Scaling vision transformers", section 3.1, as
    big_vision builds it). Initialised as a block of a stack of one.
    """

    blocks: BlockConfig
    compute: Compute

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        blocks, dtypes = self.blocks, self.compute.dtypes
        batch, _, width = x.shape
        normal = nn.initializers.normal
        into_stream = normal(width**-0.5 * 2**-0.5)

        probe = self.param("probe", normal(width**-0.5), (width,), self.compute.param_dtype)
        probe = jnp.broadcast_to(probe.astype(self.compute.dtype), (batch, 1, width))
        x = QueryAttention(
            blocks.heads, width, normal(width**-0.5), into_stream, name="attention", **dtypes
        )(probe, x)  # [B, 1, D]
        y = LayerNorm(blocks.layer_norm_epsilon, name="ln", **dtypes)(x)
        up_init = normal((2 * width) ** -0.5)
        mlp = Mlp(blocks.mlp_width, blocks.activation, up_init, into_stream, name="mlp", **dtypes)
        return (x + mlp(y))[:, 0]  # [B, D]


class VisionTransformer(nn.Module):
    """Normalised pixels float32 [B, H, W, 3] → float32 [B, E], not yet L2-normalised.

    Class token, learned positions, `ln_pre`, blocks, `ln_post`, pooling, projection, each as
    `config` says. Class token, positions and projection start as N(0, D^-½) (released model.py).
    With `patches`, int32 [B, K], the blocks see these patches alone.
    """

    config: VisionConfig
    embed_dim: int
    compute: Compute

    @nn.compact
    def __call__(
        self,
        image: jax.Array,
        *,
        patches: jax.Array | None = None,
        train: bool = False,
        project: bool = True,
    ) -> jax.Array:
        """`project=False`: float32 [B, D], what the projection would be applied to."""
        del train  # computes the same
        tower, compute, dtypes = self.config, self.compute, self.compute.dtypes
        norm = functools.partial(LayerNorm, tower.layer_norm_epsilon, **dtypes)
        normal = nn.initializers.normal(tower.width**-0.5)

        x = PatchEmbedding(
            tower.patch_size, tower.width, tower.patch_bias, name="patch_embedding", **dtypes
        )(image)
        if tower.class_token:
            token = self.param("class_embedding", normal, (tower.width,), compute.param_dtype)
            token = jnp.broadcast_to(token.astype(compute.dtype), (x.shape[0], 1, tower.width))
            x = jnp.concatenate([token, x], axis=1)  # [B, T, D]
        positions = self.param("position_embedding", normal, x.shape[1:], compute.param_dtype)
        x = x + positions.astype(compute.dtype)
        if patches is not None:
            x = keep(x, patches, before=int(tower.class_token))  # [B, 1 + K, D]
        x = compute.constrain(x)
        if tower.ln_pre:
            x = norm(name="ln_pre")(x)
        x = apply_blocks(x, blocks=tower.blocks, compute=compute)
        if tower.pooling == "token":
            x = x[:, 0]  # each token is normalised alone, so the others need not be
        x = norm(name="ln_post")(x)
        if tower.pooling == "map":
            x = MapPool(tower.blocks, compute, name="pool")(x)
        elif tower.pooling == "mean":
            x = jnp.mean(x, axis=1, dtype=jnp.float32)
        if not (tower.projection and project):
            return x.astype(jnp.float32)  # [B, D]
        return Linear(self.embed_dim, normal, name="projection", **dtypes)(x)  # [B, E]


def keep(x: jax.Array, patches: jax.Array, *, before: int) -> jax.Array:
    """Keep `before` of tokens [B, before + N, D] and these patches: [B, before + K, D]."""
    # Not x[rows, patches]: that indexing makes the partitioner gather the whole batch.
    kept = jnp.take_along_axis(x[:, before:], patches[:, :, None], axis=1)
    return jnp.concatenate([x[:, :before], kept], axis=1)
