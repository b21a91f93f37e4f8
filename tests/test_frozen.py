"""ResNets, frozen towers and frozen leaves in whole runs on the emoji scenes."""

import re
import shutil

import jax
import numpy as np
import pytest

import clipjax
from clipjax.common import exits
from clipjax.training.checkpoint.read import restore_variables
from tests import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A ResNet's run of 4 steps; what the others start from."""
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    assert tiny.run(tiny.tiny_resnet(total="4 steps"), workdir) == exits.DONE
    return workdir


def leaves(workdir):
    variables, _ = restore_variables(str(workdir))
    flat = jax.tree_util.tree_flatten_with_path(variables)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def test_running_averages_resume_and_evaluate(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "4")
    assert tiny.run(tiny.tiny_resnet(total="4 steps"), tmp_path / "again") == exits.DONE
    assert len(tiny.values(tmp_path / "again")) == 4  # steps 3 and 4 said the same twice
    first, again = leaves(trained), leaves(tmp_path / "again")
    assert any(name.startswith("batch_stats/vision/") for name in first)
    for name, leaf in first.items():
        np.testing.assert_array_equal(again[name], leaf, name)

    model = clipjax.load(trained)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    alone = np.concatenate([model.encode_image([image]) for image in images])
    np.testing.assert_allclose(model.encode_image(images), alone, atol=1e-5)


@pytest.mark.parametrize(
    "frozen",
    [r"vision/.*", r"vision/stem_.*|text/(token|position)_embedding.*|text/blocks/mlp/.*"],
    ids=["LiT", "fine-tuning"],
)
def test_frozen_leaves_keep_every_bit_for_50_steps(trained, tmp_path, frozen):
    c = tiny.tiny_resnet(total="50 steps")
    c.checkpoint.every = "50 steps"
    c.init.weights = str(trained)
    c.tokenizer.path = str(trained / "tokenizer")
    c.optimizer.learning_rate_factors = ((frozen, 0.0), (r".*", 1.0))
    assert tiny.run(c, tmp_path / "tuned") == exits.DONE
    before, after = leaves(trained), leaves(tmp_path / "tuned")
    assert before.keys() == after.keys()
    # Running averages move unless their whole tower is frozen.
    kept = re.compile(rf"params/({frozen})" + (r"|batch_stats/.*" if frozen == "vision/.*" else ""))
    stayed = {name for name in before if kept.fullmatch(name)}
    assert len(stayed) > 5
    for name in before:
        same = before[name].tobytes() == after[name].tobytes()
        assert same == (name in stayed), name


def test_a_frozen_tower_needs_weights(trained, tmp_path, capsys):
    c = tiny.tiny_resnet()
    c.optimizer.learning_rate_factors = ((r"vision/.*", 0.0), (r".*", 1.0))
    assert tiny.run(c, tmp_path / "random") == exits.BAD_CONFIG
    assert "the vision tower is frozen" in capsys.readouterr().out
