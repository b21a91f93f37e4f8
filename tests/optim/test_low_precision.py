"""bfloat16 state: rounding without bias, moments that follow small changes, equal resumes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.common.exits import ConfigError
from clipjax.optim.low_precision import (
    bfloat16_moments,
    narrow_weights,
    round_tree,
    stochastic_round,
    widen,
)


def test_rounds_to_the_two_neighbours_with_the_right_mean():
    x = jnp.full(200_000, 1 + 1 / 512, jnp.float32)  # a quarter of the way from 1 to 1 + 1/128
    rounded = np.asarray(stochastic_round(x, jax.random.key(0)).astype(jnp.float32))
    assert set(np.unique(rounded)) == {1.0, 1 + 1 / 128}
    # The standard error of the mean is 1/128 · √(3/16) / √200,000 = 7.6e-6.
    assert rounded.mean() == pytest.approx(1 + 1 / 512, abs=4e-5)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -2.5, 2.0**-120, np.inf, -np.inf])
def test_what_bfloat16_holds_stays(value):
    x = jnp.full(1000, value, jnp.float32)
    rounded = stochastic_round(x, jax.random.key(1)).astype(jnp.float32)
    np.testing.assert_array_equal(rounded, x)


def test_nan_stays_and_signs_are_kept():
    assert jnp.isnan(stochastic_round(jnp.full(3, jnp.nan), jax.random.key(0))).all()
    x = -jnp.abs(jax.random.normal(jax.random.key(2), (1000,)))
    assert (stochastic_round(x, jax.random.key(0)).astype(jnp.float32) <= 0).all()


def run(transform, steps=400):
    """Second and first moments after a long run with one noisy gradient."""
    params = {"w": jnp.zeros(4096)}
    state = transform.init(params)
    update = jax.jit(transform.update)
    for i in range(steps):
        noise = jax.random.normal(jax.random.key(i), (4096,))
        updates, state = update({"w": 0.3 + noise}, state, params)
    return updates["w"], state


def test_moments_stay_unbiased_over_many_steps():
    adam = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)
    exact, exact_state = run(adam)
    mine, state = run(bfloat16_moments(adam))
    nu = np.asarray(state.inner.nu["w"].astype(jnp.float32))
    wanted = np.asarray(exact_state.nu["w"])
    assert state.inner.nu["w"].dtype == jnp.bfloat16
    # Rounded to nearest, growth of a thousandth a step stops early: the mean is far off.
    nearest = jnp.zeros(4096, jnp.bfloat16)
    for i in range(400):
        noise = 0.3 + jax.random.normal(jax.random.key(i), (4096,))
        nearest = (0.999 * nearest.astype(jnp.float32) + 0.001 * noise**2).astype(jnp.bfloat16)
    lost = abs(float(nearest.astype(jnp.float32).mean()) / wanted.mean() - 1)
    assert abs(nu.mean() / wanted.mean() - 1) < 2e-3 < lost
    assert abs(float(mine.mean()) / float(exact.mean()) - 1) < 5e-3


def test_a_resumed_run_draws_the_same():
    transform = bfloat16_moments(optax.scale_by_adam(), seed=3)
    params = {"w": jnp.ones(64)}
    state = transform.init(params)
    _, one = transform.update({"w": jnp.full(64, 0.1)}, state, params)
    restored = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), one)
    first, _ = transform.update({"w": jnp.full(64, 0.2)}, one, params)
    again, _ = transform.update({"w": jnp.full(64, 0.2)}, restored, params)
    np.testing.assert_array_equal(first["w"], again["w"])


def test_weights_that_move_less_than_a_step_of_bfloat16_move_on_average():
    like = {"w": jnp.ones(100_000, jnp.bfloat16), "g": jnp.ones(2)}
    params = like
    for i in range(64):  # 64 × 2^-12 = 1/64; each alone rounds to nothing
        moved = jax.tree.map(lambda p: p.astype(jnp.float32) + 2**-12, params)
        params = round_tree(moved, like=like, key=jax.random.key(i))
    assert params["w"].dtype == jnp.bfloat16 and params["g"].dtype == jnp.float32
    mean = float(params["w"].astype(jnp.float32).mean())
    assert mean == pytest.approx(1 + 1 / 64, abs=2e-4)


def test_a_thousand_small_updates_leave_no_bias():
    """In steps of bfloat16 (2^-7 here) the mean drift is under 0.03, where nearest loses 2."""
    start = jnp.linspace(1.0, 1.5, 2**16).astype(jnp.bfloat16)
    update = 2.0**-16

    def drift(rounded):
        moved = rounded.astype(jnp.float32) - start.astype(jnp.float32) - 1000 * update
        return abs(float(moved.mean())) * 2**7

    def stochastic(i, w):
        moved = {"w": w.astype(jnp.float32) + update}
        return round_tree(moved, like={"w": w}, key=jax.random.fold_in(jax.random.key(0), i))["w"]

    def nearest(i, w):
        return (w.astype(jnp.float32) + update).astype(jnp.bfloat16)

    loop = jax.jit(jax.lax.fori_loop, static_argnums=(0, 1, 2))
    # A step moves one weight in 512, so that the mean's standard error is √(1000 / 512) / 2^8.
    assert drift(loop(0, 1000, stochastic, start)) < 0.03
    assert drift(loop(0, 1000, nearest, start)) > 1.9


def test_weights_by_name():
    where = "config.optimizer.bfloat16_weights"
    params = {
        "text": {"w": jnp.full(3, 1.001)},
        "vision": {"w": jnp.ones(2)},
        "scale": jnp.ones(()),
    }
    narrow = narrow_weights(params, (r"text/.*", "scale"), where=where)
    assert narrow["text"]["w"].dtype == jnp.bfloat16
    assert {narrow["vision"]["w"].dtype, narrow["scale"].dtype} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(widen(narrow))} == {jnp.dtype("float32")}
    with pytest.raises(ConfigError, match=r"'texts/\.\*' matches no parameter; one is scale"):
        narrow_weights(params, (r"texts/.*",), where=where)
