"""The arithmetic of `logistic`: its losses, their sum over all devices' rows, and L-BFGS.

Everything here is jitted and takes arrays; rows [N, ...] are split over the batch axes, padded to
whole blocks, and the rest is on every device.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from clipjax.parallel import sharding
from clipjax.parallel.mesh import BATCH_AXES

HIGHEST = jax.lax.Precision.HIGHEST
TOLERANCE = 1e-6  # of the largest entry of the gradient, in the scaled coordinates
ITERATIONS = 1000  # at most (paper, appendix A.3)
PATIENCE = 5  # iterations without a lower value: float32 sees no further
CHUNK = 50  # iterations between polls
SOLVER = optax.lbfgs()  # memory of 10 steps, zoom line search

Family = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def softmax(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy [b] and its gradient [b, C] for classes int32 [b].

    In differences to the right class's logit, so that losses near 0 keep all their digits: data
    with more features than rows are told apart without error, and the loss ends there.
    """
    own = jnp.arange(logits.shape[1])[None, :] == targets[:, None]
    right = jnp.take_along_axis(logits, targets[:, None], axis=1)
    apart = jnp.where(own, -jnp.inf, logits - right)  # [b, C]
    most = jnp.maximum(jnp.max(apart, axis=1, keepdims=True), 0)
    wrong = jnp.exp(apart - most)
    mass = jnp.sum(wrong, axis=1, keepdims=True)
    total = mass + jnp.exp(-most)
    loss = most + jnp.log1p(mass + jnp.expm1(-most))
    return loss[:, 0], jnp.where(own, -mass, wrong) / total


def independent(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Summed binary cross-entropies [b] and their gradient [b, C] for int32 [b, C] of 1, 0, -1."""
    counts, yes = targets >= 0, targets > 0
    against = jnp.where(yes, -logits, logits)
    loss = jnp.where(counts, jax.nn.softplus(against), 0)
    gradient = jnp.where(counts, jnp.where(yes, -1, 1) * jax.nn.sigmoid(against), 0)
    return jnp.sum(loss, axis=1), gradient


def _blocked(x: jax.Array, block: int) -> jax.Array:
    return x.reshape(-1, block, *x.shape[1:])


@partial(jax.jit, static_argnames=("mesh", "block"))
def moments(
    features: jax.Array, present: jax.Array, *, mesh: Mesh, block: int
) -> tuple[jax.Array, jax.Array]:
    """Mean [D] and covariance [D, D] of the rows that are present."""
    count = jnp.maximum(jnp.sum(present), 1)
    mean = jnp.sum(features, axis=0) / count  # absent rows are zero

    def local(features: jax.Array, present: jax.Array, mean: jax.Array) -> jax.Array:
        def add(total: jax.Array, part: Any) -> tuple[jax.Array, None]:
            centred = (part[0] - mean) * part[1][:, None]
            return total + jnp.matmul(centred.T, centred, precision=HIGHEST), None

        zero = jnp.zeros((features.shape[1],) * 2, jnp.float32)
        zero = jax.lax.pcast(zero, BATCH_AXES, to="varying")
        parts = _blocked(features, block), _blocked(present, block)
        return jax.lax.psum(jax.lax.scan(add, zero, parts)[0], BATCH_AXES)

    rows = P(BATCH_AXES)
    gram = jax.shard_map(local, mesh=mesh, in_specs=(rows, rows, P()), out_specs=P())(
        features, present, mean
    )
    return mean, gram / count


@partial(jax.jit, static_argnames="mesh", donate_argnums=0)
def turned(
    features: jax.Array, present: jax.Array, mean: jax.Array, axes: jax.Array, *, mesh: Mesh
) -> jax.Array:
    """(features - mean) @ axes [N, D], zero where a row is absent."""
    in_new_axes = jnp.matmul(features - mean, axes, precision=HIGHEST) * present[:, None]
    return sharding.constrain_batch(in_new_axes, mesh=mesh)


def _objective(
    features: jax.Array,
    targets: jax.Array,
    used: jax.Array,
    scale: jax.Array,
    penalty: jax.Array,
    *,
    family: Family,
    mesh: Mesh,
    block: int,
) -> Callable[[Any], jax.Array]:
    """The loss as a function of {"weights" [D, C], "bias" [C]} in the scaled coordinates.

    Its gradient comes with its value, from the same pass over the rows.
    """

    def local(weights: jax.Array, bias: jax.Array, *rows: jax.Array) -> Any:
        def add(total: Any, part: Any) -> tuple[Any, None]:
            features, targets, used = part
            logits = jnp.matmul(features, weights, precision=HIGHEST) + bias
            loss, gradient = family(logits, targets)
            gradient = gradient * used[:, None]
            sums = (
                jnp.sum(loss * used),
                jnp.matmul(features.T, gradient, precision=HIGHEST),
                jnp.sum(gradient, axis=0),
            )
            return jax.tree.map(jnp.add, total, sums), None

        zero = (jnp.zeros((), jnp.float32), jnp.zeros_like(weights), jnp.zeros_like(bias))
        zero = jax.lax.pcast(zero, BATCH_AXES, to="varying")
        total, _ = jax.lax.scan(add, zero, tuple(_blocked(x, block) for x in rows))
        return jax.lax.psum(total, BATCH_AXES)

    split = P(BATCH_AXES)
    summed = jax.shard_map(
        local, mesh=mesh, in_specs=(P(), P(), split, split, split), out_specs=P()
    )
    count = jnp.sum(used)

    def value_and_gradient(params: Any) -> tuple[jax.Array, Any]:
        weights = scale[:, None] * params["weights"]
        loss, by_weights, by_bias = summed(weights, params["bias"], features, targets, used)
        value = (loss + penalty / 2 * jnp.sum(weights**2)) / count
        by_weights = scale[:, None] * (by_weights + penalty * weights) / count
        return value, {"weights": by_weights, "bias": by_bias / count}

    @jax.custom_vjp
    def objective(params: Any) -> jax.Array:
        return value_and_gradient(params)[0]

    objective.defvjp(
        value_and_gradient, lambda gradient, by: (jax.tree.map(lambda x: by * x, gradient),)
    )
    return objective


@partial(jax.jit, static_argnames="mesh")
def begin(params: Any, *, mesh: Mesh) -> Any:
    """(params, state of the solver, iterations, idle iterations, value, largest of gradient)."""
    zero = jnp.zeros((), jnp.int32)
    unknown = jnp.full((), jnp.inf, jnp.float32)
    state = params, SOLVER.init(params), zero, zero, unknown, unknown
    # Of the types that `advance` returns, or it would be compiled twice.
    state = jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)
    return jax.lax.with_sharding_constraint(state, sharding.replicated(mesh))


@jax.jit
def progress(state: Any) -> tuple[jax.Array, ...]:
    _, _, iterations, _, value, gradient = state
    return ~_goes_on(state), iterations, value, gradient


def _goes_on(state: Any) -> jax.Array:
    _, _, iterations, idle, _, gradient = state
    return (iterations < ITERATIONS) & (idle < PATIENCE) & ~(gradient <= TOLERANCE)


@partial(jax.jit, static_argnames=("family", "mesh", "block"), donate_argnums=0)
def advance(state: Any, *data: jax.Array, family: Family, mesh: Mesh, block: int) -> Any:
    """CHUNK iterations, or fewer where that is enough."""
    objective = _objective(*data, family=family, mesh=mesh, block=block)
    first = state[2]

    def step(state: Any) -> Any:
        params, solver, iterations, idle, value, _ = state
        now, gradient = optax.value_and_grad_from_state(objective)(params, state=solver)
        updates, solver = SOLVER.update(
            gradient, solver, params, value=now, grad=gradient, value_fn=objective
        )
        params = optax.apply_updates(params, updates)
        reached = optax.tree.get(solver, "value")
        largest = optax.tree.max(jax.tree.map(jnp.abs, optax.tree.get(solver, "grad")))
        idle = jnp.where(reached < value, 0, idle + 1)
        return params, solver, iterations + 1, idle, reached, largest

    state = jax.lax.while_loop(lambda s: _goes_on(s) & (s[2] < first + CHUNK), step, state)
    return jax.lax.with_sharding_constraint(state, sharding.replicated(mesh))
