"""The stack of blocks alone: recomputing activations changes no number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from clipjax.models import config as model_config
from clipjax.models.compute import Compute
from clipjax.models.transformer import REMAT_POLICIES, apply_blocks, unstack_blocks


class Stack(nn.Module):
    scan: bool
    remat: str

    @nn.compact
    def __call__(self, x):
        blocks = model_config.BlockConfig(
            layers=2,
            heads=2,
            mlp_width=24,
            activation="quick_gelu",
            layer_norm_epsilon=1e-5,
            remat=self.remat,
            causal=True,
        )
        return apply_blocks(x, blocks=blocks, compute=Compute(scan=self.scan))


INPUT = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)


@functools.cache
def parameters():
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(Stack(True, "none").init, jax.random.key(0), INPUT)["params"]
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes)


@functools.cache
def loss_and_gradient(scan, remat):
    def loss(params):
        return jnp.sum(jnp.sin(Stack(scan, remat).apply({"params": params}, INPUT)))

    params = parameters() if scan else unstack_blocks(parameters())
    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("remat", sorted(set(REMAT_POLICIES) - {"none"}))
def test_remat_changes_no_number(remat, scan, assert_gradients_close):
    loss, gradient = loss_and_gradient(scan, "none")
    remat_loss, remat_gradient = loss_and_gradient(scan, remat)
    np.testing.assert_allclose(remat_loss, loss, rtol=1e-6)
    assert_gradients_close(remat_gradient, gradient, tolerance=1e-5)


def test_every_policy_that_a_config_may_name_exists():
    assert set(REMAT_POLICIES) == set(model_config.REMAT_POLICIES)


def test_remat_recomputes_scores_and_keeps_projections():
    """The policies do what they are for: count of matrix products in the backward pass."""

    def products(remat):
        def loss(params):
            return jnp.sum(Stack(False, remat).apply({"params": params}, INPUT))

        text = str(jax.make_jaxpr(jax.grad(loss))(unstack_blocks(parameters())))
        return text.count("dot_general[")

    saved, scores, everything = products("none"), products("dots"), products("block")
    assert saved < scores < everything
