"""How a model computes: types, loops and where arrays lie; every tower is handed one `Compute`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.models.kernels.rows import KernelMesh

Constrain = Callable[[jax.Array], jax.Array]


def identity(x: jax.Array) -> jax.Array:
    """x: the sharding constraint of one device."""
    return x


@dataclasses.dataclass(frozen=True)
class Compute:
    """What changes how a model computes, and of its results nothing but their rounding.

    Attributes:
      dtype: of matrix products and activations.
      param_dtype: of parameters.
      scan: one compiled block a tower, whose parameters are stacked; else each block by itself.
      constrain: the caller's sharding constraint, applied to activations [B, ...] at block
        boundaries.
      kernel_mesh: the devices on which TPU kernels replace the plain forms; None keeps these.
    """

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    scan: bool = True
    constrain: Constrain = identity
    kernel_mesh: KernelMesh | None = None

    @property
    def dtypes(self) -> dict[str, Any]:
        """Both types, as layers take them."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}
