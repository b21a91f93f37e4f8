"""Which patches of an image a training step sees, FLIP's way to larger batches (Li et al. 2023,
"Scaling language-image pre-training via masking"); evaluation sees all. Called by `step.py`.
"""

import jax
import jax.numpy as jnp

from clipjax.models.config import kept_patches


def draw_patches(key: jax.Array, *, rows: int, patches: int, dropped: float) -> jax.Array:
    """Indices of the patches to keep, int32 [rows, K], ascending, a random choice for each row.

    A row's choice depends on the key and its place in the global batch, not on devices, processes
    or micro-batches: both passes of accumulation get the rows' own.

    Args:
      key: of jax.random; a function of seed and step.
      rows: B, of the global batch.
      patches: N, of an image.
      dropped: share left out.
    """
    noise = jax.random.uniform(key, (rows, patches))
    _, kept = jax.lax.top_k(noise, kept_patches(patches, dropped))
    return jnp.sort(kept, axis=1).astype(jnp.int32)
