"""BatchNorm over the global batch, with PyTorch's running averages; used by the ResNets."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from clipjax.models.layers import Initializer

EPSILON = 1e-5
MOMENTUM = 0.1  # of what is new, PyTorch's default; Flax would call it 0.9


class BatchNorm(nn.Module):
    """Features of mean 0 and variance 1 over batch and place, scaled and shifted.

    [B, H, W, C] → [B, H, W, C] in `dtype`; statistics are float32, and of the whole global batch:
    under `jit` a mean over a sharded axis is one over all devices. With `train` they are the
    batch's, and collection `batch_stats` moves a tenth of the way towards them, its variance
    towards the unbiased one, as PyTorch's does (Flax's BatchNorm keeps the biased one). Otherwise
    they are the running averages.
    """

    train: bool
    dtype: Any
    param_dtype: Any
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        scale = self.param("scale", self.scale_init, (features,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (features,), self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, features, jnp.float32)
        x = x.astype(jnp.float32)
        if self.train:
            mean = jnp.mean(x, axis=(0, 1, 2))
            var = jnp.mean(jnp.square(x - mean), axis=(0, 1, 2))
            count = x.size // features
            unbiased = var * (count / max(count - 1, 1))
            updates = (
                () if self.is_initializing() else ((running_mean, mean), (running_var, unbiased))
            )
            for running, new in updates:
                running.value = (1 - MOMENTUM) * running.value + MOMENTUM * new
        else:
            mean, var = running_mean.value, running_var.value
        x = (x - mean) * (jax.lax.rsqrt(var + EPSILON) * scale) + bias
        return x.astype(self.dtype)
