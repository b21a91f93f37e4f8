"""Training that starts from another program's file of ViT-B/32, at full size, on the scenes."""

import itertools
import re
import string

import numpy as np
import pytest

from clipjax.build import pretrained
from clipjax.common import exits, trees
from clipjax.data.tokenizers.clip import ClipTokenizer
from clipjax.models import zoo
from clipjax.training.checkpoint.read import restore_variables
from clipjax.weights import formats
from tests import processes, tiny
from tests.weights import small

pytestmark = pytest.mark.slow
STEPS = 50
CONFIG = """
import sys
sys.path.insert(0, {root!r})
from tests import tiny
from clipjax import config

def get_config():
    c = tiny.tiny(batch_size=4, total={total!r})
    c.model = config.model("ViT-B/32", dtype="float32")
    c.checkpoint.every = {total!r}
    c.init.weights = {weights!r}
    c.tokenizer.kind, c.tokenizer.path = "clip", {vocabulary!r}
    c.optimizer.learning_rate_factors = (({frozen!r}, 0.0), (r".*", 1.0))
    return c
"""


def merges() -> bytes:
    """As many byte pairs as the release has."""
    letters = string.ascii_lowercase
    pairs = [
        f"{''.join(word[:-1])} {word[-1]}"
        for length in (2, 3, 4)
        for word in itertools.product(letters, repeat=length)
    ]
    return "\n".join(["#version: 0.2", *pairs[: 49_408 - 512 - 2]]).encode()


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A folder as open_clip's, random weights, and its vocabulary's file."""
    folder = tmp_path_factory.mktemp("release")
    tokenizer = ClipTokenizer(merges(), context_length=77)
    assert tokenizer.vocab_size == 49_408
    model = zoo.get("ViT-B/32")
    variables = {"params": small.params(model)}
    formats.write(
        folder / "out", to="open_clip", model=model, variables=variables, tokenizer=tokenizer
    )
    (folder / "merges.txt").write_bytes(tokenizer.model)
    return folder / "out", folder / "merges.txt"


@pytest.mark.parametrize(
    "frozen",
    [r"vision/.*", r"vision/(?!projection).*|text/(token|position)_embedding.*|text/blocks/.*"],
    ids=["LiT", "fine-tuning"],
)
def test_frozen_leaves_of_an_import_keep_every_bit(imported, tmp_path, frozen):
    weights, vocabulary = imported
    file = tmp_path / "tuned.py"
    file.write_text(
        CONFIG.format(
            root=str(processes.ROOT),
            weights=str(weights),
            vocabulary=str(vocabulary),
            frozen=frozen,
            total=f"{STEPS} steps",
        )
    )
    process = processes.start(f"--config={file}", f"--workdir={tmp_path / 'run'}", devices=1)
    assert processes.finish(process, timeout=1200) == exits.DONE, processes.output(process)
    assert all(np.isfinite(line["train/loss"]) for line in tiny.values(tmp_path / "run").values())

    before = dict(trees.named_leaves(pretrained.read_variables(str(weights))["params"]))
    after = dict(trees.named_leaves(restore_variables(str(tmp_path / "run"))[0]["params"]))
    assert before.keys() == after.keys()
    stayed = {name for name in before if re.fullmatch(frozen, name)}
    assert len(stayed) > 5 and len(before) - len(stayed) > 3
    for name in before:
        same = np.asarray(before[name]).tobytes() == np.asarray(after[name]).tobytes()
        assert same == (name in stayed), name
