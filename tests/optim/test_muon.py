"""Muon against a float64 oracle and optax's own, on any mesh, with blocks scanned or not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from clipjax.common import trees
from clipjax.models import clip
from clipjax.optim import muon
from clipjax.parallel import sharding
from tests import tiny
from tests.optim.test_optimizer import make

RATE = 0.1  # of `make`


def params_of(*, scan):
    c = tiny.tiny()
    c.model.scan = scan
    c.model.vision.layers = c.model.text.layers = 2
    init = clip.initialise(clip.from_dict(c.model.to_dict()))
    return init(jax.random.key(0))["params"]


def gradients(params, step):
    def leaf(name, x):
        rng = np.random.default_rng([step, sum(name.encode())])
        return jnp.asarray(rng.normal(size=x.shape), jnp.float32)

    return trees.map_with_names(leaf, params)


def updates_of(optimizer, params, count=3):
    state = optimizer.init(params)
    for step in range(count):
        updates, state = optimizer.update(gradients(params, step), state, params)
    return updates, state


def oracle(gradients, *, beta, name, layer):
    """Minus the learning rate times U p(S) Vᵀ, by float64's singular value decomposition."""
    trace = 0.0
    for gradient in gradients:
        gradient = np.asarray(gradient, np.float64)[layer]
        trace = gradient + beta * trace
        moved = gradient + beta * trace
    shape = moved.shape
    out = name.endswith("out/kernel")
    matrix = moved.reshape(-1, shape[-1]) if out else moved.reshape(shape[0], -1)
    u, values, v = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.sqrt(np.sum(values**2))
    a, b, c = muon.COEFFICIENTS
    for _ in range(muon.ITERATIONS):
        values = a * values + b * values**3 + c * values**5
    update = (u * values) @ v * 0.2 * max(matrix.shape) ** 0.5
    return -RATE * update.reshape(shape)


@pytest.mark.parametrize("scan", [True, False])
def test_each_matrix_equals_the_oracle_and_all_else_is_adam(scan):
    params = params_of(scan=scan)
    settings = {"beta1": 0.95, "weight_decay": 0.0}
    moved = dict(trees.named_leaves(updates_of(make("muon", params, **settings), params)[0]))
    adam = dict(trees.named_leaves(updates_of(make("adamw", params, **settings), params)[0]))
    matrices = [name for name in moved if name.endswith("kernel") and "projection" not in name]
    matrices = [name for name in matrices if "patch_embedding" not in name]
    assert len(matrices) == (12 if scan else 24)  # query, key, value, out, up, down of two towers
    steps = [dict(trees.named_leaves(gradients(params, step))) for step in range(3)]
    for name, update in moved.items():
        if name not in matrices:
            np.testing.assert_array_equal(update, adam[name], err_msg=name)
            continue
        for layer in range(2) if scan else (...,):
            wanted = oracle([step[name] for step in steps], beta=0.95, name=name, layer=layer)
            np.testing.assert_allclose(update[layer], wanted, atol=2e-5, err_msg=name)


def test_without_momentum_it_is_optax_s():
    rng = np.random.default_rng(0)
    params = {"mlp": {"up": {"kernel": jnp.asarray(rng.normal(size=(24, 40)), jnp.float32)}}}
    params = {"text": {"block_0": params}}
    reference = optax.contrib.muon(
        RATE, beta=0.0, eps=1e-8, consistent_rms=0.2, weight_decay=0.2, nesterov=True
    )
    mine, theirs = (
        updates_of(optimizer, params)[0]
        for optimizer in (make("muon", params, beta1=0.0, weight_decay=0.2), reference)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), mine, theirs)


def test_singular_values_end_near_one_whatever_their_size():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 40, 24)) * np.array([1e-6, 1.0, 1e6])[:, None, None]
    values = np.linalg.svd(muon.orthogonalize(jnp.asarray(x, jnp.float32)), compute_uv=False)
    assert values.min() > 0.6 and values.max() < 1.3
    assert not np.asarray(muon.orthogonalize(jnp.zeros((4, 4)))).any()


@pytest.mark.parametrize("scan", [True, False])
def test_it_is_the_same_on_any_mesh(scan):
    params = params_of(scan=scan)
    optimizer = make("muon", params)
    wanted, _ = updates_of(optimizer, params)
    mesh = Mesh(np.array(jax.devices()).reshape(1, 4, 2), ("data", "fsdp", "tensor"))
    rules = ((r".*attention.*kernel", "shard(-2, tensor) + shard(-1, fsdp)"),)
    shape = {"params": params, "optimizer": jax.eval_shape(optimizer.init, params)}
    placed = sharding.shardings(shape, mesh=mesh, rules=rules)
    split = [leaf for leaf in jax.tree.leaves(placed["optimizer"]) if not leaf.is_fully_replicated]
    assert len(split) >= 8  # momentum of the attention's kernels

    @jax.jit
    def update(params):
        return updates_of(optimizer, params)[0]

    sharded = jax.device_put(params, placed["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), update(sharded), wanted)


def test_a_frozen_tower_has_no_state_and_a_matrix_one_moment():
    params = params_of(scan=True)
    rules = ((r"vision/.*", 0.0), (r".*", 1.0))
    updates, state = updates_of(make("muon", params, learning_rate_factors=rules), params)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(updates["vision"]))
    size = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    matrices = sum(
        leaf.size
        for name, leaf in trees.named_leaves(params["text"])
        if muon.MATRICES.fullmatch(f"text/{name}")
    )
    others = sum(leaf.size for leaf in jax.tree.leaves(params["text"])) - matrices
    assert size == matrices + 2 * others  # and two scalars of Adam's for logit_scale


def test_moments_in_bfloat16_follow_those_in_float32():
    params = params_of(scan=True)
    exact, _ = updates_of(make("muon", params), params)
    rounded, state = updates_of(make("muon", params, moments_dtype="bfloat16"), params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state) if leaf.ndim} == {"bfloat16"}
    one, other = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (exact, rounded)
    )
    assert np.corrcoef(one, other)[0, 1] > 0.999
