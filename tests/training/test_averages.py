"""The moving average of the weights: its value, and that it is saved, resumed and read."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clipjax
from clipjax import config as settings
from clipjax import convert, evaluate
from clipjax.common import exits
from clipjax.common.exits import ConfigError
from clipjax.config import check as config_check
from clipjax.training import averages
from clipjax.training.checkpoint import read as checkpoint_reader
from clipjax.training.checkpoint.write import Checkpoints
from tests import tiny
from tests.training import toy

DECAY = 0.3  # above what the faster beginning has at steps 4 and 5


def test_it_is_the_weighted_mean_of_what_was():
    """Against float64, through the faster beginning and after it."""
    values = np.random.default_rng(0).normal(size=(40, 5))
    average, wanted = {"w": jnp.asarray(values[0], jnp.float32)}, values[0]
    for n, value in enumerate(values[1:]):
        value = jnp.asarray(value, jnp.bfloat16)
        average = averages.follow(average, {"w": value}, decay=0.6, updates=jnp.int32(n))
        decay = min(0.6, (1 + n) / (10 + n))
        wanted = decay * wanted + (1 - decay) * np.asarray(value, np.float64)
    assert average["w"].dtype == jnp.float32
    np.testing.assert_allclose(average["w"], wanted, rtol=1e-5, atol=1e-6)


def test_what_does_not_change_stays_bit_for_bit():
    frozen = jnp.asarray([-0.0, 0.1, 3e-42, -7.3], jnp.float32)
    moved = averages.follow({"w": frozen}, {"w": frozen}, decay=0.9999, updates=jnp.int32(5))
    assert np.asarray(moved["w"]).tobytes() == np.asarray(frozen).tobytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(toy, its states of 5 steps from 0 on, checkpoints with step 2)."""
    made = toy.Toy(micro_batches=2, ema_decay=DECAY, state={"average": True})
    checkpoints = Checkpoints(str(tmp_path_factory.mktemp("average")))
    states = [made.start()]
    for seed in range(5):
        states.append(made.step(states[-1], seed)[0])
    checkpoints.save(2, states[2], run={"step": 2})
    checkpoints.wait()
    return made, states, checkpoints


def test_the_step_moves_it_after_each_update(trained):
    """Parameters and BatchNorm's averages alike, in float64 from what the states hold."""
    states = jax.device_get(trained[1])
    wanted = [np.float64(x) for x in jax.tree.leaves(states[0].variables)]
    for n, state in enumerate(states[1:]):
        decay = min(DECAY, (1 + n) / (10 + n))
        newest = jax.tree.leaves(state.variables)
        wanted = [decay * a + (1 - decay) * x for a, x in zip(wanted, newest, strict=True)]
        for found, exact in zip(jax.tree.leaves(state.average), wanted, strict=True):
            np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)
    assert min(np.abs(a - x).max() for a, x in zip(wanted, newest, strict=True)) > 1e-3


def test_it_is_split_as_the_parameters(trained):
    made = trained[0].shardings
    assert "fsdp" in made.average["params"]["vision"]["kernel"].spec
    assert made.average == made.variables


def test_a_step_that_is_not_finite_does_not_move_it(trained):
    made, states, _ = trained
    scale = jax.device_put(np.float32(np.nan), made.shardings.params["logit_scale"])
    poisoned = states[2].replace(params=dict(states[2].params, logit_scale=scale))
    after, metrics = made.step(poisoned, 0)
    assert int(metrics["train/skipped"]) == 1
    toy.assert_equal(after.average, states[2].average)


def test_a_restored_run_goes_on_bit_for_bit(trained):
    made, states, checkpoints = trained
    state = checkpoints.restore(2, made.abstract)
    toy.assert_equal(state, states[2])
    for seed in (2, 3, 4):
        state, _ = made.step(state, seed)
    toy.assert_equal(state, states[5])


def test_it_is_what_is_read_unless_the_newest_weights_are_wanted(trained):
    _, states, checkpoints = trained
    folder = str(checkpoints.directory)
    toy.assert_equal(checkpoint_reader.restore_variables(folder)[0], states[2].average)
    newest, _ = checkpoint_reader.restore_variables(folder, average=False)
    toy.assert_equal(newest, states[2].variables)


def test_a_checkpoint_from_before_there_were_averages_is_restored(tmp_path):
    made = toy.Toy()
    state = made.start()
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(1, {k: v for k, v in vars(state).items() if k != "average"}, run={"step": 1})
    checkpoints.wait()
    toy.assert_equal(checkpoints.restore(1, made.abstract), state)


def test_a_decay_is_between_none_and_all():
    with pytest.raises(ConfigError, match=r"config\.ema_decay=1\.0: must be at least 0"):
        config_check.check(tiny.tiny(ema_decay=1.0))


@pytest.mark.slow
def test_it_is_evaluated_and_exported(tmp_path):
    """With a ResNet, whose running averages belong to its weights."""
    run, out, raw = (tmp_path / name for name in ("run", "out", "raw"))
    c = tiny.tiny_resnet(ema_decay=0.5)
    c.evals.held_out = settings.evaluator("loss", every="6 steps", max_examples=64)
    assert tiny.run(c, run) == exits.DONE
    lines = tiny.lines(run)
    (told,) = (line["eval/held_out/loss"] for line in lines if "eval/held_out/loss" in line)
    model, newest = clipjax.load(run), clipjax.load(run, average=False)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), model.variables, newest.variables)
    assert all(max(jax.tree.leaves(moved[part])) > 1e-6 for part in ("params", "batch_stats"))
    found = []
    for average, file in ((True, "step_6.json"), (False, "step_6_newest.json")):
        assert evaluate.run(str(run), average=average) == exits.DONE
        result = json.loads((run / "evaluations" / file).read_text())
        found.append(result["evaluations"]["held_out"]["metrics"]["loss"])
    assert found[0] == pytest.approx(told, rel=1e-6)
    assert abs(found[1] - told) > 1e-5 * told, "the newest weights are others"

    convert.convert(str(run), to="clipjax", output=str(out))
    convert.convert(str(run), to="clipjax", output=str(raw), average=False)
    toy.assert_equal(clipjax.load(out).variables, model.variables)
    toy.assert_equal(clipjax.load(raw).variables, newest.variables)
