"""A step that is not finite anywhere updates nothing, is counted, and after ten the run ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.common import exits
from clipjax.parallel import sharding
from clipjax.training.logging.step_log import StepLog
from clipjax.training.step import MAX_SKIPPED_IN_A_ROW
from tests.training import toy

MARK = 0  # a token that `toy.Toy.step` never draws


@jax.custom_vjp
def broken_behind(x, value):
    """x itself, whose gradient is `value` more."""
    return x


broken_behind.defvjp(lambda x, value: (x, value), lambda value, g: (g + value, jnp.zeros(())))


def embed_with_a_broken_gradient(value):
    """`toy.embed`, but the gradient of a batch that holds MARK is no number."""
    embed = toy.embed

    def broken(params, batch_stats, image, text, patches=None):
        outputs, stats = embed(params, batch_stats, image, text, patches)
        more = jnp.where(jnp.any(text == MARK), value, 0.0)
        return {**outputs, "text_embed": broken_behind(outputs["text_embed"], more)}, stats

    return broken


def in_the_loss(state, batch, value):
    params = {**state.params, "logit_scale": jnp.full_like(state.params["logit_scale"], value)}
    return state.replace(params=params), batch


def in_the_gradient(state, batch, value):
    batch["text"][3, 1] = MARK
    return state, batch


def in_one_image(state, batch, value):
    """Its pixels are bytes, which are never anything but finite: as if they were not."""
    batch["image"] = batch["image"].astype(np.float32)
    batch["image"][5, 2, 3, 1] = value
    return state, batch


def in_the_optimizers_state(state, batch, value):
    adam = state.opt_state[0]
    text = {"kernel": adam.mu["text"]["kernel"].at[1, 2].set(value)}
    broken = adam._replace(mu={**adam.mu, "text": text})
    return state.replace(opt_state=(broken, *state.opt_state[1:])), batch


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "broken", [in_the_loss, in_the_gradient, in_one_image, in_the_optimizers_state]
)
def test_nothing_is_updated_ten_times_and_then_the_run_ends(monkeypatch, broken, value):
    monkeypatch.setattr(toy, "embed", embed_with_a_broken_gradient(value))
    made = toy.Toy(ema_decay=0.9, state={"average": True})
    log = StepLog(None, start=0, total=99, batch_size=toy.ROWS, log_every=99)
    state = made.start()

    def take(state, batch):
        placed = sharding.to_device(batch, mesh=made.mesh, batch_size=toy.ROWS)
        return made.compiled(state, placed)

    def counted(metrics):
        return int(metrics["train/skipped"]), int(metrics["train/skipped_in_a_row"])

    state, _ = take(state, toy.batch(0))
    before, batch = broken(state, toy.batch(1), value)
    after, metrics = take(before, batch)
    assert counted(metrics) == (1, 1) and int(after.step) == 2
    finite = {name: np.isfinite(float(metrics[f"train/{name}"])) for name in ("loss", "grad_norm")}
    assert finite == {
        "loss": broken in (in_the_gradient, in_the_optimizers_state),
        "grad_norm": broken is in_the_optimizers_state,
    }
    for part in ("params", "batch_stats", "average", "opt_state"):
        toy.assert_equal(getattr(before, part), getattr(after, part))

    mended = after.replace(params=state.params, opt_state=state.opt_state)
    sound, metrics = take(mended, toy.batch(2))
    assert counted(metrics) == (1, 0), "the row ends, the sum stays"
    moved = sound.params["text"]["kernel"] != state.params["text"]["kernel"]
    assert bool(jnp.all(moved)), "sound again, it trains"

    sound, _ = broken(sound, batch, value)
    kept = sound.params
    for step in range(3, 3 + MAX_SKIPPED_IN_A_ROW):
        sound, metrics = take(sound, batch)
        log.step(step, metrics, counts={})
    with pytest.raises(exits.Diverged, match="10 in a row") as ended:
        log.flush()
    assert ended.value.code == 76
    toy.assert_equal(sound.params, kept)
    dead = sound.replace(params=state.params, opt_state=state.opt_state)
    after, metrics = take(dead, toy.batch(3))  # a sound step changes nothing any more
    assert counted(metrics) == (2 + MAX_SKIPPED_IN_A_ROW, 1 + MAX_SKIPPED_IN_A_ROW)
    toy.assert_equal(after.params, state.params)
