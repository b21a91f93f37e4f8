"""Are the kernels right on this very device? Training asks before it uses them.

They are tested in interpret mode; what a compiler makes of them on a real TPU, only that TPU shows.
One block of each tower, forward and backward, at the run's own shapes, is compared with the plain
form in float32.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.models.clip import CLIP
from clipjax.models.compute import Compute
from clipjax.models.kernels.rows import KernelMesh
from clipjax.models.transformer import Block

MARGIN = 3.0  # times the plain form's own rounding error that the kernels may be off
FLOOR = 1e-3  # a relative error that is none


def errors(model: CLIP, *, kernel_mesh: KernelMesh) -> dict[str, tuple[float, float]]:
    """{tower: (error of the kernels, error of the plain form)}, see `worst_error`.

    Args:
      model: whose blocks to check, one example each.
      kernel_mesh: one device of this process.
    """
    towers = {name: model.config.tower(name) for name in ("vision", "text")}
    return {
        name: _errors(tower, dtype=model.compute.dtype, kernel_mesh=kernel_mesh)
        for name, tower in towers.items()
        if hasattr(tower, "blocks")
    }


def passes(kernels: float, plain: float) -> bool:
    """Whether the kernels' error is what rounding explains; NaN does not pass."""
    return kernels <= max(MARGIN * plain, FLOOR)


def _errors(tower: Any, *, dtype: Any, kernel_mesh: KernelMesh) -> tuple[float, float]:
    # One layer, with a smaller MLP: no kernel of ours is in the products.
    blocks = dataclasses.replace(tower.blocks, layers=1, mlp_width=2 * tower.width)
    x = jax.random.normal(jax.random.key(0), (1, tower.tokens, tower.width)).astype(dtype)

    def results(compute: Compute) -> Any:
        plain = dataclasses.replace(compute, kernel_mesh=None)
        params = Block(blocks, plain).init(jax.random.key(1), x.astype(compute.dtype))

        def loss(params: Any, x: jax.Array) -> Any:
            out = Block(blocks, compute).apply(params, x)
            assert isinstance(out, jax.Array)
            return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

        gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        (_, out), gradients = jax.jit(gradient)(params, x.astype(compute.dtype))
        return out, gradients

    with jax.default_matmul_precision("highest"):
        exact = results(Compute())
    with_kernels, plain = Compute(dtype, kernel_mesh=kernel_mesh), Compute(dtype)
    return worst_error(results(with_kernels), exact), worst_error(results(plain), exact)


def worst_error(actual: Any, exact: Any) -> float:
    """The largest |difference| / |exact| of a leaf; |exact| at least 1% of the largest."""
    sizes = [_norm(leaf) for leaf in jax.tree.leaves(exact)]
    differences = [_norm(d) for d in jax.tree.leaves(jax.tree.map(jnp.subtract, actual, exact))]
    floor = 1e-2 * max(sizes)
    return max(d / max(size, floor) for d, size in zip(differences, sizes, strict=True))


def _norm(x: jax.Array) -> float:
    return float(jnp.linalg.norm(x.astype(jnp.float32)))
