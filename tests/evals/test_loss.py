"""The loss of evaluators is the run's own: against float64 oracles, and in a run."""

import jax.numpy as jnp
import numpy as np
import pytest

import clipjax
from clipjax import config
from clipjax.build import data as build_data
from clipjax.common import exits
from clipjax.data import eval_batches
from clipjax.data.sources.scenes import Scenes
from clipjax.evals.protocols import loss
from clipjax.training import objectives
from tests import tiny
from tests.losses import oracle


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("duplicates", ["negative", "positive", "mask"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", sorted(oracle.LOSSES))
def test_every_loss_equals_its_oracle_over_ragged_batches(name, dtype, duplicates):
    rng = np.random.default_rng(3)
    image, text = unit(rng, 20, 8), unit(rng, 20, 8)
    ids = {key: rng.integers(0, 15, 20).astype(np.uint32) for key in ("image_id", "text_id")}
    scale, bias = 7.0, -4.0
    found = loss.contrastive_loss(
        image,
        text,
        logit_scale=scale,
        logit_bias=bias,
        batch_size=8,
        objective=objectives.contrastive(name, embed_dtype=dtype, duplicates=duplicates),
        ids=ids,
    )
    rounded = [np.asarray(jnp.asarray(x, dtype), np.float64) for x in (image, text)]
    mode, total = None if duplicates == "negative" else duplicates, 0.0
    for rows in (slice(0, 8), slice(8, 16), slice(16, 20)):
        batch = {key: each[rows] for key, each in ids.items()}
        positive, negative = oracle.masks(len(image[rows]), mode=mode, **batch)
        with_masks = [x[rows] for x in rounded] + [scale, bias, positive, negative]
        total += float(oracle.LOSSES[name](*with_masks)) * len(image[rows])
    assert found == pytest.approx(total / 20, rel=1e-5 if dtype == "float32" else 5e-3)


@pytest.mark.long
def test_a_sigmoid_run_is_measured_by_its_own_loss(tmp_path, capsys):
    workdir = tmp_path / "run"
    c = tiny.tiny(total="2 steps")
    c.model.logit_bias, c.loss.name = True, "sigmoid_ring"
    c.evals.held_out = config.evaluator("loss", every="2 steps", max_examples=24, batch_size=24)
    assert tiny.run(c, workdir) == exits.DONE
    line = next(line for line in tiny.lines(workdir) if "eval/held_out/loss" in line)
    model = clipjax.load(workdir)
    source = build_data.evaluation_source(c, "held_out")
    assert isinstance(source.source, Scenes)
    pixels = [eval_batches.load_eval_image(i, source=source, size=32)["image"] for i in range(24)]
    image = model.encode_image(pixels)
    text = model.encode_text([eval_batches.eval_captions(source, i)[0] for i in range(24)])
    scalars = model.module.apply(model.variables, method="scalars")
    own, others = oracle.masks(24)
    expected = oracle.sigmoid(
        *(np.asarray(x, np.float64) for x in (image, text, *scalars.values())), own, others
    )
    assert line["eval/held_out/loss"] == pytest.approx(float(expected), rel=1e-5)
    said = (
        "24 of 1,000 records, spread over all; sigmoid_ring among 24 pairs, and 16 in training:"
        " train/loss is another number"
    )
    assert line["eval/held_out/notes"].startswith(said)
    said = said.partition("; ")[2]
    assert said in " ".join(capsys.readouterr().out.split())
    assert said in (workdir / "report" / "index.html").read_text()
