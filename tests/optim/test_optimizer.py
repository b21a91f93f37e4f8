"""AdamW against optax's own, decay and learning-rate factors, freezing, schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.common.exits import ConfigError
from clipjax.config import defaults
from clipjax.optim import USUAL_PATTERNS, OptimizerSettings
from clipjax.optim.optimizer import make_optimizer
from clipjax.optim.schedules import make_schedule

PARAMS = {
    "vision": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2), "ln": {"scale": jnp.ones(2)}},
    "text": {"kernel": jnp.full((2, 2), 2.0)},
    "logit_scale": jnp.float32(2.0),
}


def make(name="adamw", params=PARAMS, **changes):
    usual = defaults().optimizer
    settings = {
        "weight_decay": 0.2,
        "beta1": 0.9,
        "beta2": 0.98,
        "epsilon": 1e-6,
        "decay_factors": usual.decay_factors,
        "learning_rate_factors": usual.learning_rate_factors,
        **changes,
    }
    schedule = settings.pop("schedule", lambda step: jnp.float32(0.1))
    seed = settings.pop("seed", 0)
    return make_optimizer(OptimizerSettings(name, **settings), params, schedule=schedule, seed=seed)


def steps(optimizer, count=3):
    params, state = PARAMS, optimizer.init(PARAMS)
    for i in range(count):
        grads = jax.tree.map(lambda p, i=i: jnp.cos(p * (i + 1)), params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_equals_adamw_with_a_mask():
    mask = {
        "vision": {"kernel": True, "bias": False, "ln": {"scale": False}},
        "text": {"kernel": True},
        "logit_scale": False,
    }
    reference = optax.adamw(0.1, b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.2, mask=mask)
    jax.tree.map(np.testing.assert_allclose, steps(make())[0], steps(reference)[0])


def test_frozen_parameters_stay_and_have_no_state():
    rules = ((r"vision/.*", 0.0), (r".*", 1.0))
    params, state = steps(make(learning_rate_factors=rules))
    jax.tree.map(np.testing.assert_array_equal, params["vision"], PARAMS["vision"])
    assert float(jnp.max(jnp.abs(params["text"]["kernel"] - 2.0))) > 0.05
    sizes = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert sizes == 2 * PARAMS["text"]["kernel"].size


def test_learning_rate_factors_scale_decay_too():
    rules = ((r"text/.*", 0.5), (r".*", 1.0))
    one, _ = steps(make(), count=1)
    half, _ = steps(make(learning_rate_factors=rules), count=1)
    moved = lambda p: np.asarray(p["text"]["kernel"]) - 2.0  # noqa: E731
    np.testing.assert_allclose(moved(half), moved(one) / 2, rtol=1e-5)


def test_clipping_is_of_the_global_norm():
    # Adam ignores the scale of all gradients together: with clipping or without, one step is equal.
    clipped, _ = steps(make(clip_norm=1e-3, epsilon=1e-12), count=1)
    free, _ = steps(make(epsilon=1e-12), count=1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), clipped, free)


def test_lion_equals_optax():
    every = ((r".*", 1.0),)
    mine, _ = steps(make("lion", beta2=0.99, decay_factors=every))
    reference, _ = steps(optax.lion(0.1, b1=0.9, b2=0.99, weight_decay=0.2))
    jax.tree.map(np.testing.assert_allclose, mine, reference)


def test_adafactor_factors_the_second_moment_and_divides_by_it():
    params = {"kernel": jnp.ones((64, 32)), "bias": jnp.ones(32)}
    optimizer = make("adafactor", params, beta1=0.0, weight_decay=0.0)
    state = optimizer.init(params)
    grads = {"kernel": jnp.full((64, 32), -3.0), "bias": jnp.full(32, 5.0)}
    for _ in range(3):
        updates, state = optimizer.update(grads, state, params)
    # A constant gradient over the root of its mean square is its sign, times the learning rate.
    np.testing.assert_allclose(updates["kernel"], 0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], -0.1, rtol=1e-5)
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim and leaf.size > 1)
    assert sizes == [32, 32, 32, 64, 64 * 32]  # rows, columns, the bias; momentum of both


def test_learning_rates_decay_with_depth_scanned_or_not():
    names = {"token_embedding": 0, "ln_final": 4}
    layers = {f"block_{i}": {"kernel": jnp.ones((4, 4))} for i in range(3)}
    ends = {key: jnp.ones(4) for key in names}
    looped = {"text": {**layers, **ends}, "logit_scale": jnp.float32(1.0)}
    scanned = {
        "text": {"blocks": {"kernel": jnp.ones((3, 4, 4))}, **ends},
        "logit_scale": jnp.float32(1.0),
    }
    moved = {}
    for kind, params in (("looped", looped), ("scanned", scanned)):
        optimizer = make(params=params, layer_decay=0.5, weight_decay=0.0)
        grads = jax.tree.map(jnp.ones_like, params)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        moved[kind] = jax.tree.map(lambda u: np.asarray(u / -0.1), updates)
    for i, wanted in enumerate((0.125, 0.25, 0.5)):
        np.testing.assert_allclose(moved["looped"]["text"][f"block_{i}"]["kernel"], wanted, 1e-5)
        np.testing.assert_allclose(moved["scanned"]["text"]["blocks"]["kernel"][i], wanted, 1e-5)
    for each in moved.values():
        np.testing.assert_allclose(each["text"]["token_embedding"], 0.0625, 1e-5)
        np.testing.assert_allclose(each["text"]["ln_final"], 1.0, 1e-5)
        np.testing.assert_allclose(each["logit_scale"], 1.0, 1e-5)


def test_every_parameter_must_be_covered():
    with pytest.raises(ConfigError, match=r'no rule matches parameter "logit_scale"'):
        make(decay_factors=((r".*/.*", 1.0),))


@pytest.mark.parametrize("setting", ["decay_factors", "learning_rate_factors"])
def test_a_rule_that_matches_no_parameter_is_refused(setting):
    for slip, near in {"visoin/.*": "vision/.*", "text/kernal": "text/kernel"}.items():
        with pytest.raises(ConfigError) as error:
            make(**{setting: ((slip, 0.0), (r".*", 1.0))})
        told = str(error.value)
        assert told.startswith(f"config.optimizer.{setting}: '{slip}' matches no parameter")
        assert told.endswith(f'(did you mean "{near}"?)')
    # One that others before it leave nothing to is no slip.
    make(**{setting: ((r".*/.*", 0.5), (r"text/.*", 0.0), (r".*", 1.0))})


def test_the_defaults_rules_may_be_idle():
    settings = defaults().optimizer
    rules = (*settings.decay_factors, *settings.learning_rate_factors)
    assert {pattern for pattern, _ in rules} == set(USUAL_PATTERNS)
    make(params={"kernel": jnp.ones((2, 2))})  # has no bias, no scale and no logit_scale


def test_cosine_warms_up_and_ends_at_zero():
    schedule = make_schedule("cosine", peak=4e-4, total_steps=100, warmup_steps=10)
    assert float(schedule(0)) == pytest.approx(4e-5)
    assert float(schedule(9)) == pytest.approx(4e-4)
    assert float(schedule(10)) == pytest.approx(4e-4)
    assert float(schedule(55)) == pytest.approx(2e-4)
    assert float(schedule(100)) == pytest.approx(0.0, abs=1e-12)


def test_constant_stays():
    schedule = make_schedule("constant", peak=1.0, total_steps=100, warmup_steps=0)
    assert [float(schedule(s)) for s in (0, 50, 100)] == [1.0, 1.0, 1.0]


def test_rsqrt_falls_with_the_root_and_cools_down_to_zero():
    schedule = make_schedule(
        "rsqrt",
        peak=2.0,
        total_steps=1000,
        warmup_steps=10,
        cooldown_steps=100,
        timescale_steps=30,
    )
    assert float(schedule(10)) == pytest.approx(2.0)
    assert float(schedule(10 + 90)) == pytest.approx(2.0 / 2)
    assert float(schedule(900)) == pytest.approx(2.0 * (1 + 890 / 30) ** -0.5)
    assert float(schedule(950)) == pytest.approx(0.5 * 2.0 * (1 + 940 / 30) ** -0.5)
    assert float(schedule(1000)) == 0.0
