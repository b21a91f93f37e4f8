"""A small model learns pairs by heart with bfloat16 moments and weights: the curve is float32's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.build import program as build
from clipjax.optim import low_precision
from clipjax.parallel import mesh as meshes
from clipjax.parallel import sharding
from tests import tiny

pytestmark = pytest.mark.slow
STEPS = 120
MESH = {"data": 1, "fsdp": 1, "tensor": 1}


def pairs():
    """64 pairs to be learnt by heart."""
    noise = np.random.default_rng(0)
    return {
        "image": noise.integers(0, 256, (64, 32, 32, 3)).astype(np.uint8),
        "text": noise.integers(1, 384, (64, 24)).astype(np.int32),
        "record_id": np.arange(64, dtype=np.uint32),
    }


def curve(*, moments="float32", weights=()):
    """(losses [STEPS], last state)."""
    c = tiny.tiny(batch_size=64, total=f"{STEPS} steps")
    c.model.scan = False
    c.optimizer.moments_dtype, c.optimizer.bfloat16_weights = moments, weights
    c.optimizer.beta2 = 0.999
    mesh = meshes.make_mesh(MESH, devices=jax.devices()[:1])
    program = build.program(c, mesh=mesh, total_steps=STEPS, warmup_steps=20)
    state = jax.jit(program.init, out_shardings=program.out_shardings[0])(jax.random.key(c.seed))
    step = build.compile_step(c, program, mesh=mesh)
    batch = sharding.to_device(pairs(), mesh=mesh, batch_size=64)
    losses = []
    for _ in range(STEPS):
        state, metrics = step(state, batch)
        losses.append(float(metrics["train/loss"]))
    return np.array(losses), state


@pytest.fixture(scope="module")
def exact():
    return curve()[0]


def gap(losses, exact):
    """Mean distance of two curves, smoothed over 20 steps, in parts of what was learnt."""
    smooth = [np.convolve(x, np.full(20, 1 / 20), mode="valid") for x in (losses, exact)]
    return float(np.abs(smooth[0] - smooth[1]).mean() / (exact[0] - exact.min()))


def test_bfloat16_moments(exact):
    losses, state = curve(moments="bfloat16")
    print(f"moments: curves {gap(losses, exact):.3%} apart, end {losses[-1]:.3f} {exact[-1]:.3f}")
    assert {x.dtype for x in jax.tree.leaves(state.opt_state) if x.ndim} == {jnp.dtype("bfloat16")}
    assert exact[-1] < 0.3 * exact[0], "it learns"
    assert gap(losses, exact) < 0.002


def test_bfloat16_text_weights(exact, monkeypatch):
    losses, state = curve(weights=(r"text/.*",))
    towers = ("text", "vision")
    dtypes = {tower: {x.dtype for x in jax.tree.leaves(state.params[tower])} for tower in towers}
    assert dtypes == {"text": {jnp.dtype("bfloat16")}, "vision": {jnp.dtype("float32")}}

    def nearest(tree, *, like, key):
        return jax.tree.map(lambda x, wanted: x.astype(wanted.dtype), tree, like)

    monkeypatch.setattr(low_precision, "round_tree", nearest)
    plain, _ = curve(weights=(r"text/.*",))
    told = [f"{gap(curve, exact):.3%}" for curve in (losses, plain)]
    print(f"text weights: curves {told[0]} apart, rounded to nearest {told[1]}")
    assert gap(losses, exact) < 0.002 and 3 * gap(losses, exact) < gap(plain, exact)
