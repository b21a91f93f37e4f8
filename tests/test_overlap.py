"""The overlap program on real digits, some of which were put among the training images."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from clipjax import evaluate, overlap
from clipjax.common import exits
from clipjax.common.exits import ConfigError
from clipjax.data.source import Source
from clipjax.data.sources.digits import Digits
from clipjax.evals import suites
from clipjax.evals.evaluated import EvaluatedModel
from clipjax.parallel import mesh as meshes
from tests import tiny


class Joined(Source):
    """Training images: the digits' own split, and every tenth evaluation image."""

    name, fingerprint = "digits and some of the test", "joined"

    def __init__(self):
        train, test = Digits(split="train"), Digits(split="test")
        self.records = [train[i] for i in range(100)] + [test[i] for i in range(0, len(test), 10)]

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        return self.records[index]


class Pixels:
    """An image tower: normalised grey pixels; counts what it embeds."""

    def __init__(self):
        self.embedded = 0

    def images(self, params, source, *, image_size, poll):
        self.embedded += len(source)
        rows = [self.one(source[index]["image"]) for index in range(len(source))]
        return np.stack(rows)

    def one(self, data):
        import io

        grey = np.asarray(Image.open(io.BytesIO(data)).convert("L").resize((8, 8)), np.float32)
        grey = grey.ravel() - grey.mean()
        return grey / np.linalg.norm(grey)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(the function that runs it, its folder, the tower)."""
    folder = tmp_path_factory.mktemp("results")
    n = len(Digits(split="test"))
    (folder / "arrays").mkdir()
    rank = np.where((np.arange(n) % 10 == 0) | (np.arange(n) % 3 > 0), 0, 1)
    np.savez(folder / "arrays" / "digits.zero_shot.npz", rank=rank)
    tower = Pixels()
    model = EvaluatedModel(
        embedder=tower,
        tokenizer=None,
        image_size=8,
        mesh=meshes.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, devices=jax.devices()[:1]),
        weights={"id": "w"},
    )
    suite = suites.Suite("s", (suites.own("digits", source="digits"), suites.own("x", path="no")))

    def run(**thresholds):
        return overlap.find(
            model,
            suite,
            training=Joined(),
            data="",
            folder=str(folder),
            thresholds=thresholds,
            distance=0,
            num_workers=0,
        )

    return run, folder, tower


def test_copies_are_found_and_counted_and_drawn(ran, capsys):
    run, folder, _ = ran
    found = run()["digits"]
    planted = len(range(0, 364, 10))
    assert found["found"]["file"] == planted and found["found"]["embedding"] == 0
    assert found["n"] == 364 and found["overlap"]["value"] == 1.0 > found["clean"]["value"]
    assert found["change"] > 0 and found["p_value"] < 1e-3
    told = json.loads((folder / "overlap" / "overlap.json").read_text())["digits"]
    assert told["found"] == found["found"] and told["threshold"] is None
    for name in ("digits.png", "overlap.png"):
        with Image.open(folder / "overlap" / name) as picture:
            assert picture.width > 600
    assert f"{planted} files" in capsys.readouterr().out


def test_a_threshold_embeds_nothing_again(ran, capsys):
    run, _, tower = ran
    run()
    before = tower.embedded
    found = run(digits=0.9999)["digits"]
    assert tower.embedded == before and found["threshold"] == 0.9999
    assert found["found"]["embedding"] >= found["found"]["file"] <= found["found"]["any"]
    with pytest.raises(ConfigError, match="nowhere is none of the suite's measured sets"):
        run(nowhere=0.5)
    capsys.readouterr()


def test_the_report_of_a_runs_suite_shows_it(tmp_path, capsys):
    c = tiny.tiny(total="2 steps")
    c.data.source = "digits"
    assert tiny.run(c, tmp_path / "run") == exits.DONE
    suite = tmp_path / "s.py"
    suite.write_text(
        "from clipjax.evals import suites\n"
        "def get_suite():\n"
        "    return suites.Suite('mine', (suites.own('digits', source='digits'),))\n"
    )
    assert evaluate.run(str(tmp_path / "run"), suite=str(suite)) == exits.DONE
    page = tmp_path / "run" / "evaluations" / "mine" / "step_2" / "report.html"
    assert "overlap of evaluation and training images" not in page.read_text()
    assert overlap.run(workdir=str(tmp_path / "run"), suite=str(suite)) == exits.DONE
    assert "overlap of evaluation and training images" in page.read_text()
    assert str(page) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"suite": "paper27"}, "name the model"),
        ({"suite": "paper27", "weights": "w"}, "--training is missing"),
        ({"suite": "", "workdir": "w"}, "--suite is missing"),
        ({"suite": "paper2", "workdir": "w"}, 'did you mean "paper27"'),
    ],
)
def test_wrong_flags_are_one_line(given, told):
    with pytest.raises(ConfigError, match=told):
        overlap.run(**given)


def test_thresholds_are_numbers_by_set(tmp_path):
    file = tmp_path / "t.json"
    file.write_text('{"pets": 0.9}')
    assert overlap._thresholds(str(file)) == {"pets": 0.9}
    for wrong in ("[1]", '{"pets": "high"}', "{"):
        file.write_text(wrong)
        with pytest.raises(ConfigError, match=r"t\.json: write"):
            overlap._thresholds(str(file))
