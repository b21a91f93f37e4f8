"""The evaluating program on a tiny run: its table and file, queries, labels, and its errors."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

import clipjax
from clipjax import config, evals, evaluate
from clipjax.common import exits
from clipjax.common.exits import CleanExit, ConfigError, DataError
from clipjax.data.tokenizers import sentencepiece as sentencepiece_tokenizer
from clipjax.run import evaluation
from clipjax.run import queries as run_queries
from tests import tiny

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run with an evaluator of each kind."""
    workdir = tmp_path_factory.mktemp("runs") / "evaluated"
    c = tiny.tiny(total="4 steps")
    c.evals.held_out = config.evaluator("retrieval", every="4 steps", max_examples=21)
    c.evals.held_out_loss = config.evaluator("loss", every="4 steps", max_examples=32)
    c.evals.objects = config.evaluator(
        "zero_shot", every="4 steps", source="objects", max_examples=85
    )
    assert tiny.run(c, workdir) == exits.DONE
    return workdir


@pytest.fixture(scope="module")
def model(trained):
    return clipjax.load(trained)


def test_evaluators_give_what_the_run_logged(trained, capsys):
    assert evaluate.run(str(trained)) == exits.DONE
    told = capsys.readouterr().out
    result = json.loads((trained / "evaluations" / "step_4.json").read_text())
    assert result["step"] == 4 and result["examples_seen"] == 64
    assert {name: found["n"] for name, found in result["evaluations"].items()} == {
        "held_out": 21, "held_out_loss": 32, "objects": 85
    }  # fmt: skip
    logged = {k: v for line in tiny.lines(trained) for k, v in line.items() if "eval/" in k}
    for name, found in result["evaluations"].items():
        for key, value in found["metrics"].items():
            expected = logged[f"eval/{name}/{key}"]
            assert value == (expected if isinstance(value, str) else pytest.approx(expected))
        assert set(found["chance"]) == set(found["metrics"]) - {"prompts_hash"}
        assert set(found["chance"]) == set(evals.KINDS[found["kind"]].metrics)
    assert result["evaluations"]["objects"]["chance"]["top5_accuracy"] == 5 / 40
    assert result["evaluations"]["held_out_loss"]["chance"]["loss"] == pytest.approx(np.log(16))
    assert "objects: top-1 accuracy" in told and "2.50%" in told and "step_4.json" in told


def test_texts_are_cleaned_as_captions_are(model):
    found = model.encode_text(["a fox", " a\ud800 \x00fox\n"])
    np.testing.assert_array_equal(found[0], found[1])


def test_a_step_of_its_own_is_enough(trained, tmp_path, capsys):
    alone = tmp_path / "checkpoints" / "2"
    shutil.copytree(trained / "checkpoints" / "2", alone)
    assert evaluate.run(str(alone)) == exits.DONE
    assert (tmp_path / "evaluations" / "step_2.json").exists()
    assert evaluate.run(str(trained), step=2) == exits.DONE
    files = [p / "evaluations" / "step_2.json" for p in (tmp_path, trained)]
    here, there = (json.loads(file.read_text())["evaluations"] for file in files)
    assert here["objects"]["metrics"] == there["objects"]["metrics"]
    capsys.readouterr()


def test_evaluating_leaves_a_save_at_work_alone(trained):
    unfinished = trained / "checkpoints" / "9.orbax-checkpoint-tmp-1" / "state"
    unfinished.mkdir(parents=True)
    clipjax.load(trained)
    assert unfinished.exists()
    shutil.rmtree(unfinished.parent)


def test_a_query_finds_evaluation_images(trained, capsys):
    assert evaluate.run(str(trained), queries=["a fox left of a pizza", "Über"]) == exits.DONE
    *told, path = capsys.readouterr().out.splitlines()
    assert told[0] == '"a fox left of a pizza" among 21 images' and len(told) == 2 * 6
    scores = [float(line.split()[1]) for line in told[1:6]]
    assert scores == sorted(scores, reverse=True) and " background" in told[1]
    assert path.endswith("evaluations/step_4_a_fox_left_of_a_pizza_and_1_more.png")
    with Image.open(path) as sheet:
        assert sheet.width > 800 and len(sheet.getcolors(1 << 20)) > 100
        assert "OpenMoji" in sheet.info["Copyright"]


def test_a_query_over_images_of_ones_own(trained, tmp_path, capsys):
    for name, color in {"red.png": "red", "blue.jpg": "blue", "grey.webp": "grey"}.items():
        Image.new("RGB", (300, 40), color).save(tmp_path / name)
    assert evaluate.run(str(trained), queries=["red " * 99], images=str(tmp_path)) == exits.DONE
    told = capsys.readouterr().out.splitlines()
    assert {line.split()[-1] for line in told[1:4]} == {"red.png", "blue.jpg", "grey.webp"}
    assert "its end was cut off" in told[4]


def test_words_that_the_vocabulary_never_saw_are_told(trained, tmp_path, capsys):
    Image.new("RGB", (30, 40), "red").save(tmp_path / "red.png")
    assert evaluate.run(str(trained), queries=["a fox", "日本"], images=str(tmp_path)) == exits.DONE
    heads = [line for line in capsys.readouterr().out.splitlines() if "among" in line]
    assert heads[0] == '"a fox" among 1 image'
    assert heads[1].endswith('; the vocabulary never saw "日本", so the order may mean little')


def test_words_that_are_spelled_are_known_by_their_letters():
    rng = np.random.default_rng(0)
    known = ["".join(letters) for letters in rng.choice([*"abcdefghilmnopz"], size=(700, 6))]
    rest = "jkqrstuvwxy"
    made = sentencepiece_tokenizer.train_sentencepiece([*known, rest], vocab_size=1500, exact=False)
    model = types.SimpleNamespace(
        tokenizer=sentencepiece_tokenizer.SentencePieceTokenizer(made, context_length=16)
    )
    spelled = [word for word in known if run_queries.is_spelled(word, model)]
    assert model.tokenizer.vocab_size > run_queries.LETTERS and not spelled
    strange = ["quixotry", "naïve", "日本", "jk"]
    spelled = [word for word in strange if run_queries.is_spelled(word, model)]
    assert spelled == ["quixotry", "naïve", "日本"]


def test_labels_share_the_probability(trained, tmp_path, capsys):
    Image.new("L", (50, 40), 99).save(tmp_path / "x.png")
    labels = ["a fox", "a bear", "a key"]
    assert evaluate.run(str(trained), image=str(tmp_path / "x.png"), labels=labels) == exits.DONE
    told = capsys.readouterr().out.splitlines()
    assert '"{} on a white background" and 7 more' in told[0]  # the evaluator's own prompts
    shares = {line[2:9].strip(): float(line.split()[-1].rstrip("%")) for line in told[1:4]}
    assert set(shares) == set(labels) and sum(shares.values()) == pytest.approx(100, abs=0.2)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_the_library_takes_files_pictures_and_arrays(model, tmp_path):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "x.png")
    images = [tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(array), array]
    embeds = model.encode_image(images)
    assert embeds.shape == (4, 16) and embeds.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(embeds, embeds[:1].repeat(4, 0), atol=1e-6)
    assert model.encode_image([]).shape == (0, 16) == model.encode_text([]).shape
    texts = model.encode_text(["a fox", "a bear"])
    chosen = model.zero_shot(images, ["a fox", "a bear"], templates=("{}",))
    logits = model.logit_scale * embeds @ texts.T
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(chosen, expected, rtol=1e-4)
    many = model.encode_text([f"a fox {i}" for i in range(19)])
    assert many.shape == (19, 16)
    np.testing.assert_allclose(model.encode_text(["a fox 18"])[0], many[18], atol=1e-6)


def test_the_library_names_what_is_no_image(model, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"bad.png: not a JPEG, PNG or WebP"):
        model.encode_image([tmp_path / "bad.png"])
    with pytest.raises(ValueError, match="uint8"):
        model.encode_image([np.zeros((4, 4, 3))])
    with pytest.raises(ConfigError, match="does not fit"):
        model.zero_shot([], ["a " * 99, "b"])


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"step": 3}, r"has no step 3; it has 2, 4"),
        ({"images": "somewhere"}, r"--images=somewhere: add what to look for"),
        ({"image": "x.png"}, "--image and --labels go together"),
        ({"labels": ["a", "b"]}, "--image and --labels go together"),
        ({"image": __file__, "labels": ["a"]}, "two or more"),
        ({"image": "nowhere.png", "labels": ["a", "b"]}, "nowhere.png: no such file"),
        ({"image": __file__, "labels": ["a", "b"]}, "not a JPEG, PNG or WebP"),
        ({"queries": ["a"], "image": "x.png"}, "one at a time"),
        ({"queries": [" "]}, "is empty"),
        ({"queries": ["a"], "images": "nowhere"}, "nowhere: no such folder"),
    ],
)
def test_mistakes_are_one_line_each(trained, asked, told):
    with pytest.raises(ConfigError, match=told) as caught:
        evaluate.run(str(trained), **asked)
    assert "\n" not in str(caught.value) and caught.value.code == exits.BAD_CONFIG


def test_a_damaged_image_among_ones_own_is_named(trained, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"folder: record bad.jpg is unusable"):
        evaluate.run(str(trained), queries=["a"], images=str(tmp_path))


def test_no_run_and_no_evaluators_are_told(trained, tmp_path):
    for workdir in ("", "nowhere", str(tmp_path)):
        with pytest.raises(CleanExit) as caught:
            evaluate.run(workdir)
        assert caught.value.code == exits.BAD_CONFIG
    bare = clipjax.load(trained)
    bare.config.evals = {}
    with pytest.raises(ConfigError, match="has no evaluators"):
        evaluation.evaluate_checkpoint(bare, workdir=str(trained))
    with pytest.raises(ConfigError, match="add --images=FOLDER"):
        run_queries.show_best(bare, ["a"], images="", workdir=str(trained))


def test_the_program_reads_its_flags(trained):
    def program(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "clipjax.evaluate", *arguments],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )

    done = program("--workdir=nowhere")
    assert done.returncode == 64 and done.stderr.startswith("clipjax: --workdir=nowhere: no such")
    assert len(done.stderr.splitlines()) == 1
    for unread in ("--data=x", "--force", "--output=x", "--template=a {}", "--suite=nightly"):
        asked = [unread] + ["--query=a fox"] * (unread == "--suite=nightly")
        done = program(f"--workdir={trained}", *asked)
        assert done.returncode == 64 and len(done.stderr.splitlines()) == 1, done.stderr
        assert "has no effect without" in done.stderr or "ask one at a time" in done.stderr
    done = program("--suite=nightly", f"--workdir={trained}", "--output=x")
    assert done.returncode == 64 and f"go to {trained}/evaluations; leave it out" in done.stderr
    done = program(f"--weights={trained}", "--query=a fox")
    assert done.returncode == 64 and f"only on --suite; write --workdir={trained}" in done.stderr
    done = program(f"--workdir={trained}", "--query=a fox", "--query=a key")
    assert done.returncode == 0 and '"a key" among 21 images' in done.stdout
    assert done.stderr == ""


def test_importing_load_is_lazy():
    code = (
        "import sys, clipjax; assert 'jax' not in sys.modules; clipjax.load;"
        " assert 'jax' in sys.modules; assert not hasattr(clipjax, 'lod')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
