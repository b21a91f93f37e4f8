"""Muon (Jordan et al. 2024): the momentum of attention's and the MLPs' matrices, made orthogonal.

Directions of a matrix that have small gradients all the time move as far as those with large ones,
so that what is rare is learned sooner. Embeddings, projections, convolutions, gains, biases and
scalars have no such directions; Adam moves them, as Muon's authors advise.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from clipjax.common import trees
from clipjax.optim import OptimizerSettings
from clipjax.optim.optimizer import adam

MATRICES = re.compile(r".*/(attention/(query|key|value|out)|mlp/(up|down))/kernel")
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's: singular values end within 0.7 and 1.2
# Root mean square of an update's entries, near that of Adam's: one learning rate and one weight
# decay fit both (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2).
RMS = 0.2


def muon(settings: OptimizerSettings) -> optax.GradientTransformation:
    """Muon's updates of MATRICES, whose momentum (Nesterov's) is `beta1`; Adam's of all else."""
    momentum = optax.trace(decay=settings.beta1, nesterov=True)
    matrices = optax.chain(momentum, optax.stateless(lambda updates, _: _orthogonal(updates)))
    return optax.partition({"matrix": matrices, "other": adam(settings)}, _kinds)


def _kinds(params: Any) -> Any:
    return trees.map_with_names(
        lambda name, _: "matrix" if MATRICES.fullmatch(name) else "other", params
    )


def _orthogonal(updates: Any) -> Any:
    """Each matrix near U Vᵀ of its singular value decomposition, its entries RMS on average.

    The kernels of query, key and value, [D, H, K], take D to all heads' H x K, that of `out`,
    [H, K, D], the other way; scanned blocks have a leading dimension of layers.
    """

    def update(name: str, x: jax.Array) -> jax.Array:
        layers = x.shape[: int("blocks" in name.split("/"))]
        ends = x.shape[-1] if "out" in name.split("/") else x.shape[len(layers)]
        rows = (-1, ends) if "out" in name.split("/") else (ends, -1)
        matrix = orthogonalize(x.reshape(*layers, *rows))
        return (matrix * (RMS * max(matrix.shape[-2:]) ** 0.5)).reshape(x.shape).astype(x.dtype)

    return trees.map_with_names(update, updates)


def orthogonalize(x: jax.Array) -> jax.Array:
    """float [..., N, M] with its singular values near 1, in place of any that are not 0.

    A Newton-Schulz iteration of fifth order, which needs matrix products alone.
    """
    tall = x.shape[-2] > x.shape[-1]  # the products below are of the smaller side
    x = x.mT if tall else x
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-8)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x
