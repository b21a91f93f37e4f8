"""The nearest of very many candidates to each of some queries, on all devices.

Candidates come in blocks, as they are embedded, and are split over the devices; queries are on all
of them. What is kept are the best few of each query. Used for overlap (training images near an
evaluation image) and geolocation (reference photographs near a query).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from clipjax.parallel import sharding
from clipjax.parallel.mesh import BATCH_AXES, batch_shards

QUERIES = 1024  # whose scores with one device's candidates exist at once
BLOCK = 65536  # candidates at once, on all devices together


class Nearest:
    """The `count` candidates of highest cosine for each query; of equal ones the first.

    Args:
      queries: float32 [Q, E], L2-normalised. One that is no number has no neighbours.
      count: K.
      mesh: candidates are split over its batch axes.

    Attributes:
      scores: float32 [Q, K], best first; -inf where there were fewer candidates.
      index: int64 [Q, K], which of all candidates given so far; -1 likewise.
    """

    def __init__(self, queries: np.ndarray, *, count: int, mesh: Mesh) -> None:
        self.mesh = mesh
        self.scores = np.full((len(queries), count), -np.inf, np.float32)
        self.index = np.full((len(queries), count), -1, np.int64)
        self._seen = 0
        self._parts = [
            sharding.put(
                np.pad(part, ((0, QUERIES - len(part)), (0, 0))) if start else part,
                sharding.replicated(mesh),
            )
            for start in range(0, len(queries), QUERIES)
            for part in [np.asarray(queries[start : start + QUERIES], np.float32)]
        ]

    def add(self, candidates: np.ndarray) -> None:
        """Compare with more candidates, float32 [N, E], L2-normalised."""
        for start in range(0, len(candidates), BLOCK):
            self._add(np.asarray(candidates[start : start + BLOCK], np.float32))

    def _add(self, block: np.ndarray) -> None:
        spare = -len(block) % batch_shards(self.mesh)
        padded = np.pad(block, ((0, spare), (0, 0)))
        real = np.arange(len(padded)) < len(block)
        split = sharding.batch_sharding(self.mesh)
        placed = [sharding.put(x, split) for x in (padded, real)]
        count = self.scores.shape[1]
        for number, part in enumerate(self._parts):
            rows = slice(number * QUERIES, min((number + 1) * QUERIES, len(self.scores)))
            scores, where = jax.device_get(_best(part, *placed, mesh=self.mesh, count=count))
            kept = rows.stop - rows.start
            self._merge(rows, scores[:kept], where[:kept].astype(np.int64) + self._seen)
        self._seen += len(block)

    def _merge(self, rows: slice, scores: np.ndarray, index: np.ndarray) -> None:
        both = np.concatenate([self.scores[rows], scores], axis=1)
        places = np.concatenate([self.index[rows], np.where(scores > -np.inf, index, -1)], axis=1)
        order = np.argsort(-both, axis=1, kind="stable")[:, : self.scores.shape[1]]
        self.scores[rows] = np.take_along_axis(both, order, axis=1)
        self.index[rows] = np.take_along_axis(places, order, axis=1)


@partial(jax.jit, static_argnames=("mesh", "count"))
def _best(
    queries: jax.Array,  # [Q, E]
    candidates: jax.Array,  # [N, E]
    real: jax.Array,  # [N]
    *,
    mesh: Mesh,
    count: int,
) -> tuple[jax.Array, jax.Array]:
    """(scores [Q, devices · k], indices of candidates), in the order of the candidates' devices."""

    def local(queries: Any, candidates: Any, real: Any) -> tuple[jax.Array, jax.Array]:
        cosine = jnp.einsum("qe,ne->qn", queries, candidates, precision=jax.lax.Precision.HIGHEST)
        cosine = jnp.where(real[None] & ~jnp.isnan(cosine), cosine, -jnp.inf)
        scores, where = jax.lax.top_k(cosine, min(count, len(candidates)))
        first = jax.lax.axis_index(BATCH_AXES) * len(candidates)
        return scores, where.astype(jnp.int32) + first

    split = P(BATCH_AXES)
    scores, where = jax.shard_map(
        local, mesh=mesh, in_specs=(P(), split, split), out_specs=P(None, BATCH_AXES)
    )(queries, candidates, real)
    return jax.lax.with_sharding_constraint((scores, where), sharding.replicated(mesh))
