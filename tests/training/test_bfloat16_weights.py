"""The step with text weights in bfloat16: what is stored, and that equal starts round equally."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clipjax
from clipjax import config as settings
from clipjax.common import exits
from clipjax.run import evaluation
from clipjax.training.checkpoint.write import Checkpoints
from tests import tiny
from tests.training import toy

TEXT = (r"text/.*",)


@pytest.fixture(scope="module")
def made():
    return toy.Toy(micro_batches=2, state={"bfloat16_weights": TEXT}, seed=5)


def test_weights_alone_are_narrow(made):
    state, _ = made.step(made.start(), 0)
    toy_dtypes = {tower: state.params[tower]["kernel"].dtype for tower in ("text", "vision")}
    assert toy_dtypes == {"text": jnp.bfloat16, "vision": jnp.float32}
    assert state.params["logit_scale"].dtype == jnp.float32
    moments = [x.dtype for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert set(moments) == {jnp.dtype("float32")}


def test_a_restored_run_goes_on_bit_for_bit(made, tmp_path):
    straight, _ = made.step(made.start(), 0)
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(1, straight, run={"step": 1})
    checkpoints.wait()
    restored = checkpoints.restore(1, made.abstract)
    toy.assert_equal(restored, straight)
    for seed in (1, 2):
        (straight, _), (restored, _) = made.step(straight, seed), made.step(restored, seed)
    toy.assert_equal(restored, straight)


def test_each_step_rounds_by_its_own_number(made):
    state = made.start()
    later = state.replace(step=jax.device_put(state.step + 1, state.step.sharding))
    first, again, other = (
        np.asarray(made.step(s, 0)[0].params["text"]["kernel"].astype(jnp.float32))
        for s in (state, state, later)
    )
    assert np.array_equal(first, again) and np.mean(first != other) > 0.1
    # To one of the two neighbours of the same sum.
    assert np.abs(first - other).max() <= np.abs(first).max() * 2**-7


@pytest.mark.slow
def test_it_is_trained_evaluated_and_loaded(tmp_path):
    c = tiny.tiny()
    c.optimizer.bfloat16_weights = TEXT
    c.evals.held_out = settings.evaluator("loss", every="6 steps", max_examples=64)
    assert tiny.run(c, tmp_path) == exits.DONE
    lines = tiny.lines(tmp_path)
    (told,) = (line["eval/held_out/loss"] for line in lines if "eval/held_out/loss" in line)
    model = clipjax.load(tmp_path)
    assert {x.dtype for x in jax.tree.leaves(model.variables)} == {jnp.dtype("float32")}
    found = evaluation.evaluate_checkpoint(model, workdir=str(tmp_path))["evaluations"]["held_out"]
    assert found["metrics"]["loss"] == pytest.approx(told, rel=1e-5)
