"""Patches left out in training: chosen by seed, step and row alone, and what the tower sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clipjax
from clipjax import config as settings
from clipjax.build import model as build_model
from clipjax.common import exits
from clipjax.common.exits import ConfigError
from clipjax.config import check as config_check
from clipjax.config import stages
from clipjax.models import clip
from clipjax.models.vit import keep
from clipjax.run import evaluation
from clipjax.training.patch_dropout import draw_patches
from tests import tiny
from tests.training import toy


def test_each_row_keeps_its_own_different_patches():
    kept = np.asarray(draw_patches(jax.random.key(0), rows=4000, patches=16, dropped=0.5))
    assert kept.shape == (4000, 8) and kept.dtype == np.int32
    assert (np.diff(kept, axis=1) > 0).all() and kept.min() == 0 and kept.max() == 15
    share = np.bincount(kept.ravel(), minlength=16) / 4000
    assert np.abs(share - 0.5).max() < 0.04  # 5 standard errors
    assert len(np.unique(kept, axis=0)) > 3000  # of 12,870 choices
    other = draw_patches(jax.random.key(1), rows=4000, patches=16, dropped=0.5)
    assert not np.array_equal(kept, other)
    assert draw_patches(jax.random.key(0), rows=2, patches=4, dropped=0.99).shape == (2, 1)


@pytest.mark.parametrize("before", [0, 1])
def test_tokens_before_the_patches_are_kept(before):
    tokens = np.arange(2 * (before + 4) * 3).reshape(2, before + 4, 3)
    found = keep(jnp.asarray(tokens), jnp.asarray([[0, 3], [1, 2]]), before=before)
    wanted = [[*range(before), *(before + n for n in row)] for row in ((0, 3), (1, 2))]
    np.testing.assert_array_equal(found, [tokens[0, wanted[0]], tokens[1, wanted[1]]])


def test_the_tower_sees_the_kept_patches_and_nothing_else():
    model = clip.from_dict(tiny.tiny().model.to_dict() | {"scan": False})
    shapes = jax.eval_shape(clip.initialise(model), jax.random.key(0))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: np.float32(0.2 * rng.normal(size=x.shape)), shapes)
    image = rng.integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)

    @jax.jit
    def encode(image, patches):
        return model.apply({"params": params}, image, patches=patches, method="encode_image")

    kept = jnp.asarray([[0, 3], [1, 2], [2, 3]], jnp.int32)
    seen = np.asarray([[1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 1, 1]], bool)
    mask = np.repeat(np.repeat(seen.reshape(3, 2, 2), 16, axis=1), 16, axis=2)[..., None]
    found = encode(image, kept)
    np.testing.assert_array_equal(found, encode(np.where(mask, image, np.uint8(7)), kept))
    assert np.abs(found - encode(np.where(mask, np.uint8(7), image), kept)).max() > 1e-3


@pytest.fixture(scope="module")
def one_device():
    return toy.Toy(devices=1, patch_dropout=0.5, seed=3)


def two_steps(made):
    """(losses, last state) after two steps."""
    state, losses = made.start(), []
    for _ in range(2):
        state, metrics = made.step(state, 0)
        losses.append(float(metrics["train/loss"]))
    return losses, state


def test_devices_and_micro_batches_draw_the_same(one_device):
    """Both passes of accumulation see the same patches, or its gradient would be another."""
    losses, state = two_steps(one_device)
    split = toy.Toy(devices=2, micro_batches=2, patch_dropout=0.5, seed=3)
    same, accumulated = two_steps(split)
    np.testing.assert_allclose(losses, same, rtol=1e-5)
    for a, b in zip(
        jax.tree.leaves(state.opt_state), jax.tree.leaves(accumulated.opt_state), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(a).max())


def test_a_step_draws_by_its_number_alone(one_device):
    state = one_device.start()
    later = state.replace(step=jax.device_put(state.step + 1, state.step.sharding))
    first, again, other = (
        float(one_device.step(s, 0)[1]["train/loss"]) for s in (state, state, later)
    )
    assert first == again and abs(other - first) > 1e-4


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_a_share_is_between_none_and_all(value):
    with pytest.raises(ConfigError, match=r"config\.patch_dropout=.*must be at least 0"):
        config_check.check(tiny.tiny(patch_dropout=value))
    c = tiny.tiny()
    c.stages.masked = settings.stage("48 examples", patch_dropout=value)
    with pytest.raises(ConfigError, match=r"config\.stages\.masked\.patch_dropout"):
        config_check.check(c)


def test_a_resnet_has_no_patches():
    with pytest.raises(ConfigError, match=r"patch_dropout=0\.5: a resnet has no patches"):
        config_check.check(tiny.tiny_resnet(patch_dropout=0.5))


def staged():
    c = tiny.tiny(patch_dropout=0.25)
    c.stages.most = settings.stage("32 examples", patch_dropout=0.75)
    c.stages.all = settings.stage("48 examples", patch_dropout=0.0)
    return c


def test_a_stage_has_a_share_of_its_own_or_the_run_s():
    parts = stages.plan(staged(), epoch_examples=None)
    assert [part.config.patch_dropout for part in parts] == [0.75, 0.0, 0.25]


def test_patches_that_are_not_seen_are_no_work():
    c = tiny.tiny()
    whole = build_model.training_flops_per_pair(c)
    c.patch_dropout = 0.5
    half = build_model.training_flops_per_pair(c)
    assert 0.5 * whole < half < whole


@pytest.mark.slow
def test_all_patches_are_evaluated(tmp_path):
    c = staged()
    c.evals.held_out = settings.evaluator("loss", every="2 steps", max_examples=64)
    assert tiny.run(c, tmp_path) == exits.DONE
    told = [
        line["eval/held_out/loss"] for line in tiny.lines(tmp_path) if "eval/held_out/loss" in line
    ]
    assert len(told) == 3
    model = clipjax.load(tmp_path)
    found = evaluation.evaluate_checkpoint(model, workdir=str(tmp_path))["evaluations"]["held_out"]
    assert found["metrics"]["loss"] == pytest.approx(told[-1], rel=1e-6)
