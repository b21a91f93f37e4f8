"""Multinomial logistic regression on all devices; linear and few-shot probes are fitted with it.

Full-batch L-BFGS (`optax.lbfgs`) in float32 on scikit-learn's objective,

    (sum of the rows' cross-entropies + penalty / 2 · ‖W‖²) / rows,

with a free intercept, so that scikit-learn's C is 1 / penalty. Rows stay split over the devices;
weights, gradients and L-BFGS's memory are on every device. Logits exist a block of rows at a time.

It is solved in coordinates that change the way and not the goal: features are centred (the
intercept takes up their mean), turned onto their principal axes (a rotation leaves ‖W‖ as it is)
and scaled there. Raw features of 0 … 16 took 4,000 iterations where these take 150.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clipjax.evals import embed
from clipjax.evals.probe import solver
from clipjax.parallel import distributed, sharding
from clipjax.parallel.mesh import batch_shards

BLOCK = 2048  # rows of one device whose logits exist at once
NARROW = 1e-3  # axes with less than this share of the widest one's variance count as so wide


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted classifier: scores are features @ weights + bias.

    Attributes:
      weights: float32 [D, C].
      bias: float32 [C].
      penalty: on the weights; scikit-learn's C is its inverse.
      rows: that it was fitted to.
      loss: the objective reached.
      gradient: its largest entry, in the scaled coordinates.
      iterations: it took.
    """

    weights: np.ndarray
    bias: np.ndarray
    penalty: float
    rows: int
    loss: float
    gradient: float
    iterations: int

    @property
    def converged(self) -> bool:
        """Whether it ended because there was no lower loss to find, within float32."""
        return self.iterations < solver.ITERATIONS

    def scores(self, features: np.ndarray) -> np.ndarray:
        """float32 [N, C] for features [N, D]; NaN where a feature is no finite number."""
        with np.errstate(invalid="ignore", over="ignore"):
            scores = np.asarray(features, np.float32) @ self.weights + self.bias
        return np.where(finite_rows(features)[:, None], scores, np.nan)


class Rows:
    """Labelled features on the devices; `fit` may be called for many penalties and subsets.

    One compilation serves all fits of one shape: pad small sets to the largest with `length`.

    Args:
      features: float [N, D]; rows that are not finite are left out of every fit.
      targets: int [N], the class of each row; or int [N, C] of 1, 0 and -1 for yes, no and does not
        count, where each class is a question of its own (scikit-learn, one against the rest).
      classes: C.
      mesh: rows are split over its batch axes.
      length: rows to pad to, if that is more than N.
    """

    def __init__(
        self,
        features: np.ndarray,
        targets: np.ndarray,
        *,
        classes: int,
        mesh: Mesh,
        length: int = 0,
    ) -> None:
        self.finite = finite_rows(features)
        self.classes = classes
        self.mesh = mesh
        self.family = solver.softmax if targets.ndim == 1 else solver.independent
        # A softmax of two classes halves ‖w‖² of the one vector that scikit-learn has for them.
        self._twice = 2 if targets.ndim == 1 and classes == 2 else 1
        self._chance = 1 / classes if targets.ndim == 1 else 1 / 2
        self._length, self.block = padded(max(len(features), length), mesh=mesh)
        present = self._put(np.asarray(self.finite, np.float32))
        clean = np.where(self.finite[:, None], features, 0).astype(np.float32)
        raw = self._put(clean)
        mean, gram = solver.moments(raw, present, mesh=mesh, block=self.block)
        self._mean = np.asarray(mean, np.float64)
        self._axes, self._variance = _principal_axes(np.asarray(gram))
        self._features = solver.turned(raw, present, mean, self._whole(self._axes), mesh=mesh)
        self._targets = self._put(targets.astype(np.int32))

    def fit(
        self,
        penalty: float,
        *,
        used: np.ndarray | None = None,
        start: Fit | None = None,
        poll: embed.Poll = lambda: False,
    ) -> Fit:
        """The classifier of least loss.

        Args:
          penalty: at least 1e-6.
          used: bool [N], the rows to fit to; default all.
          start: a fit to begin with, best one of a larger penalty.
          poll: asked every few iterations; embed.Preempted if it says to give up.
        """
        chosen = self.finite if used is None else self.finite & used
        rows = int(chosen.sum())
        scale = self._scale(penalty, rows)
        data = (
            self._features,
            self._targets,
            self._put(np.asarray(chosen, np.float32)),
            self._whole(scale),
            self._whole(np.float32(self._twice * penalty)),
        )
        static = {"family": self.family, "mesh": self.mesh, "block": self.block}
        start_params = jax.tree.map(self._whole, self._inside(start, scale))
        state = solver.begin(start_params, mesh=self.mesh)
        while True:
            if poll():
                raise embed.Preempted
            state = solver.advance(state, *data, **static)
            done, iterations, value, gradient = jax.device_get(solver.progress(state))
            if done:
                break
        weights, bias = self._outside(jax.device_get(state[0]), scale)
        return Fit(weights, bias, penalty, rows, float(value), float(gradient), int(iterations))

    def _scale(self, penalty: float, rows: int) -> np.ndarray:
        """float32 [D]: one over the root of the objective's curvature along each axis, at zero."""
        wide = np.maximum(self._variance, NARROW * self._variance.max(initial=0))
        curvature = wide * self._chance * (1 - self._chance) + self._twice * penalty / rows
        return (1 / np.sqrt(curvature)).astype(np.float32)

    def _inside(self, start: Fit | None, scale: np.ndarray) -> dict[str, np.ndarray]:
        """A fit in the scaled coordinates; zeros for None."""
        if start is None:
            shape = (len(scale), self.classes)
            return {"weights": np.zeros(shape, np.float32), "bias": np.zeros(shape[1], np.float32)}
        weights = start.weights.astype(np.float64)
        turned = (self._axes.astype(np.float64).T @ weights) / scale[:, None]
        bias = start.bias + self._mean @ weights
        return {"weights": turned.astype(np.float32), "bias": bias.astype(np.float32)}

    def _outside(
        self, params: dict[str, np.ndarray], scale: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        weights = self._axes.astype(np.float64) @ (scale[:, None] * params["weights"])
        return weights.astype(np.float32), (params["bias"] - self._mean @ weights).astype(
            np.float32
        )

    def _put(self, rows: np.ndarray) -> jax.Array:
        """Rows [N, ...] padded with zeros and split over the devices."""
        shape = (self._length, *rows.shape[1:])
        split = sharding.batch_sharding(self.mesh)

        def part(index: Any) -> np.ndarray:
            own = rows[index]
            spare = len(range(*index[0].indices(self._length))) - len(own)
            return np.pad(own, ((0, spare), *[(0, 0)] * (rows.ndim - 1))) if spare else own

        return jax.make_array_from_callback(shape, split, part)

    def _whole(self, x: Any) -> jax.Array:
        return sharding.put(np.asarray(x), sharding.replicated(self.mesh))


def padded(rows: int, *, mesh: Mesh) -> tuple[int, int]:
    """(rows with padding, rows in a block of one device)."""
    shards = batch_shards(mesh)
    each = max(-(-rows // shards), 1)
    block = min(each, BLOCK)
    return shards * (each + -each % block), block


def _principal_axes(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [D, D] orthonormal columns, float64 [D] variance along each), equal on all hosts."""
    variance, axes = np.linalg.eigh(covariance.astype(np.float64))
    agreed = distributed.from_lead(axes.astype(np.float32).tobytes())  # signs differ by machine
    axes = np.frombuffer(agreed, np.float32).reshape(axes.shape)
    variance = np.frombuffer(distributed.from_lead(variance.tobytes()))
    return axes, np.maximum(variance, 0)


def finite_rows(features: np.ndarray) -> np.ndarray:
    """bool [N], the rows of [N, D] all of whose features are finite numbers."""
    return np.asarray(np.isfinite(features).all(axis=1))
