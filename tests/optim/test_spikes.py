"""Spikes of the gradient change nothing; what stays large is taken in the end."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clipjax.optim import spikes

PARAMS = {"a": jnp.ones(4), "b": jnp.ones((2, 3))}


def gradient(size, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(size * rng.normal(size=p.shape), p.dtype), PARAMS)


def run(optimizer, sizes, params=PARAMS, state=None):
    state = optimizer.init(params) if state is None else state
    update = jax.jit(optimizer.update)
    for number, size in enumerate(sizes):
        updates, state = update(gradient(size, number), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def same(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def test_a_spike_changes_neither_parameters_nor_moments():
    plain = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.1), optax.scale(-0.01))
    wrapped = spikes.skip_spikes(plain, factor=5.0)
    params, state = run(wrapped, [1.0] * 60)
    expected, inner = run(plain, [1.0] * 60)
    assert same(params, expected) and same(state.inner, inner) and int(state.spikes_skipped) == 0
    after, spiked = run(wrapped, [100.0], params, state)
    assert same(after, params) and same(spiked.inner, state.inner)
    assert int(spiked.spikes_skipped) == 1
    assert float(spiked.usual_norm) < 1.1 * float(state.usual_norm)
    again, _ = run(wrapped, [1.0], after, spiked)
    assert same(again, run(plain, [1.0], params, inner)[0])  # as if it had not been


def test_what_stays_large_is_taken_in_the_end():
    wrapped = spikes.skip_spikes(optax.sgd(1.0), factor=5.0)
    params, state = run(wrapped, [1.0] * 60)
    params, state = run(wrapped, [20.0] * 300, params, state)
    assert 0 < int(state.spikes_skipped) < 150
    before = int(state.spikes_skipped)
    _, state = run(wrapped, [20.0] * 20, params, state)
    assert int(state.spikes_skipped) == before


def test_the_first_updates_are_all_taken():
    wrapped = spikes.skip_spikes(optax.sgd(1.0), factor=2.0)
    _, state = run(wrapped, [0.01, 100.0] * (spikes.WARM_UP // 2))
    assert int(state.spikes_skipped) == 0
