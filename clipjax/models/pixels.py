"""Pixel normalisation: uint8 images as the towers take them, by the model's mean and deviation.

The only place that normalises pixels, so that everything before it handles uint8.
"""

import jax
import jax.numpy as jnp

from clipjax.models.config import ClipConfig


def normalize_pixels(image: jax.Array, config: ClipConfig) -> jax.Array:
    """uint8 [B, H, W, 3] → float32 [B, H, W, 3] less the model's mean, over its deviation, of
    pixels in [0, 1]."""
    center = 255 * jnp.asarray(config.image_mean, jnp.float32)
    scale = 1 / (255 * jnp.asarray(config.image_std, jnp.float32))
    return (image.astype(jnp.float32) - center) * scale
