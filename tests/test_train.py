"""Whole runs, in this process: resuming, finishing, refusing, and what stays on disk."""

import json
import os
import shutil
import threading

import pytest

from clipjax import config
from clipjax.common import exits
from clipjax.data.tokenizers.sentencepiece import train_sentencepiece
from tests import tiny


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    c = tiny.tiny()
    c.evals.held_out = config.evaluator("retrieval", every="3 steps", max_examples=40)
    c.evals.held_out_loss = config.evaluator("loss", every="6 steps", max_examples=40)
    assert tiny.run(c, workdir) == exits.DONE
    return workdir


def test_workdir_holds_checkpoints_config_metrics_and_tensorboard(straight):
    assert {"checkpoints", "config.json", "metrics.jsonl", "tensorboard", "tokenizer"} <= set(
        os.listdir(straight)
    )
    assert json.loads((straight / "config.json").read_text())["batch_size"] == 16
    assert any(name.startswith("events") for name in os.listdir(straight / "tensorboard"))


def test_every_line_holds_its_own_steps_values(straight):
    values = tiny.values(straight)
    assert sorted(values) == [1, 2, 3, 4, 5, 6]
    assert [values[s]["examples_seen"] for s in (1, 6)] == [16, 96]
    assert len({v["data/records_hash"] for v in values.values()}) == 6
    assert values[1]["train/learning_rate"] == pytest.approx(0.5e-3)
    for name in (
        "train/loss",
        "train/logit_scale",
        "train/grad_norm",
        "train/image_to_text_accuracy",
        "train/text_to_image_accuracy",
    ):
        assert name in values[1]


def test_evaluations_are_logged_when_due_and_at_the_end(straight):
    found = [line for line in tiny.lines(straight) if any(k.startswith("eval/") for k in line)]
    assert [line["step"] for line in found] == [3, 6, 6]
    assert "eval/held_out/image_to_text_recall_at_1" in found[0]
    assert found[2]["eval/held_out_loss/loss"] > 0


def test_the_report_holds_samples_sheet_curves_and_a_page(straight):
    files = set(os.listdir(straight / "report"))
    assert {"index.html", "samples.png", "curves.png", "held_out_sheet.png"} <= files
    page = (straight / "report" / "index.html").read_text()
    assert "data:image/png;base64," in page and "http-equiv" not in page, "a finished page stands"


def test_resuming_repeats_the_straight_run_bit_by_bit(straight, tmp_path):
    workdir = tmp_path / "cut"
    shutil.copytree(straight, workdir)
    shutil.rmtree(workdir / "checkpoints" / "6")
    assert tiny.run(tiny.tiny(), workdir) == exits.DONE
    assert tiny.values(workdir) == tiny.values(straight)
    steps = [line["step"] for line in tiny.lines(workdir) if "train/loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6, 5, 6]


def test_a_torn_last_line_is_cut_off(straight, tmp_path):
    workdir = tmp_path / "torn"
    shutil.copytree(straight, workdir)
    shutil.rmtree(workdir / "checkpoints" / "6")
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "train/lo')
    assert tiny.run(tiny.tiny(), workdir) == exits.DONE
    assert tiny.values(workdir) == tiny.values(straight)


def test_a_finished_run_says_so(straight, capsys):
    c = tiny.tiny()
    before = len(tiny.lines(straight))
    assert tiny.run(c, straight) == exits.DONE
    assert "complete, step 6 of 6" in capsys.readouterr().out
    assert len(tiny.lines(straight)) == before


def test_run_defining_change_is_refused_with_the_difference(straight, capsys):
    c = tiny.tiny(total="8 steps")
    assert tiny.run(c, straight) == exits.BAD_CONFIG
    told = capsys.readouterr().out
    assert "total: '6 steps' → '8 steps'" in told and "--allow_config_change" in told


def test_operational_change_is_free_and_allowed_change_is_recorded(straight, tmp_path, capsys):
    workdir = tmp_path / "longer"
    shutil.copytree(straight, workdir)
    c = tiny.tiny(total="8 steps", log_every="4 steps")
    assert tiny.run(c, workdir, allow_config_change=True) == exits.DONE
    recorded = json.loads((workdir / "config_changes.jsonl").read_text())
    assert recorded["changed"] == {"total": ["6 steps", "8 steps"]}
    assert max(tiny.values(workdir)) == 8
    told = "changed     total: '6 steps' → '8 steps'; recorded in config_changes.jsonl"
    assert told in capsys.readouterr().out.splitlines()
    assert tiny.run(c, workdir) == exits.DONE, "the change is the run's by now"
    assert "changed  " not in capsys.readouterr().out


def test_another_tokenizer_is_refused(straight, tmp_path, capsys):
    workdir = tmp_path / "tokenizer"
    shutil.copytree(straight, workdir)
    other = tmp_path / "other.model"
    text = [f"a {a} and a {b}" for a in "abcdefghij" for b in "klmnopqrst"] * 3
    other.write_bytes(train_sentencepiece(text, vocab_size=290))
    c = tiny.tiny()
    c.tokenizer.path = str(other)
    assert tiny.run(c, workdir) == exits.BAD_CONFIG
    assert "differs from the tokenizer this run began with" in capsys.readouterr().out


def test_text_weights_that_know_other_words_are_refused(straight, tmp_path, capsys):
    c = tiny.tiny(total="2 steps")
    c.init.weights = str(straight)
    letters = "abcdefghijklmnop"
    text = [f"{a}{b}{c} {c}{a}{a} {b}{c}" for a in letters for b in letters for c in letters]
    other = tmp_path / "other.model"
    other.write_bytes(train_sentencepiece(text, vocab_size=384))
    c.tokenizer.path = str(other)
    assert tiny.run(c, tmp_path / "other") == exits.BAD_CONFIG
    told = capsys.readouterr().out
    assert "trained with another vocabulary" in told and "config.tokenizer" in told


@pytest.mark.long
def test_initial_weights_from_another_run_with_larger_images_and_longer_text(straight, tmp_path):
    c = tiny.tiny(total="2 steps")
    c.model.vision.image_size = 48
    c.model.text.context_length = 30
    c.init.weights = str(straight)
    c.tokenizer.path = str(straight / "tokenizer")
    scratch = tiny.tiny(total="2 steps")
    scratch.model.vision.image_size = 48
    scratch.model.text.context_length = 30
    scratch.tokenizer.path = c.tokenizer.path
    assert tiny.run(c, tmp_path / "from") == exits.DONE
    assert tiny.run(scratch, tmp_path / "scratch") == exits.DONE
    assert (
        tiny.values(tmp_path / "from")[1]["train/loss"]
        != (tiny.values(tmp_path / "scratch")[1]["train/loss"])
    )


def test_an_error_leaves_no_watchdog_that_would_end_a_notebook(tmp_path):
    c = tiny.tiny(watchdog_seconds=600.0)
    c.model.text.vocab_size = 50_000  # more than the captions support, which is seen as data open
    assert tiny.run(c, tmp_path / "run") == exits.BAD_CONFIG
    watching = [thread for thread in threading.enumerate() if thread.name == "watchdog"]
    for thread in watching:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in watching)


def test_a_run_that_diverged_is_not_saved(tmp_path, capsys):
    """Between two log lines, too: a checkpoint of it would never train again."""
    c = tiny.tiny(total="60 steps", log_every="50 steps")
    c.checkpoint.every = "8 steps"
    c.optimizer.learning_rate = 1e30
    c.optimizer.weight_decay = 0.0
    assert tiny.run(c, tmp_path / "run") == exits.DIVERGED
    assert "10 in a row" in capsys.readouterr().out
    saved = sorted(int(folder.name) for folder in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == [8], saved  # two steps sound, fewer than ten not


@pytest.mark.long
def test_best_checkpoint_survives_restart_and_later_saves(tmp_path):
    def make(total):
        c = tiny.tiny(total=total)
        c.evals.held_out_loss = config.evaluator("loss", every="1 steps", max_examples=32)
        c.checkpoint.every = "1 steps"
        c.checkpoint.keep_last = 2
        c.checkpoint.keep_every = "4 steps"
        c.checkpoint.keep_best.metric = "eval/held_out_loss/loss"
        # "max": the highest loss is the first one, so the best step is an old one.
        c.checkpoint.keep_best.mode = "max"
        return c

    workdir = tmp_path / "best"
    assert tiny.run(make("6 steps"), workdir) == exits.DONE
    losses = {
        line["step"]: line["eval/held_out_loss/loss"]
        for line in tiny.lines(workdir)
        if "eval/held_out_loss/loss" in line
    }
    best = max(losses, key=lambda step: losses[step])
    assert _kept(workdir) == {best, 4, 5, 6}
    assert tiny.run(make("9 steps"), workdir, allow_config_change=True) == exits.DONE
    losses |= {
        line["step"]: line["eval/held_out_loss/loss"]
        for line in tiny.lines(workdir)
        if "eval/held_out_loss/loss" in line
    }
    best = max(losses, key=lambda step: losses[step])
    assert _kept(workdir) == {best, 4, 8, 9}


def _kept(workdir):
    return {int(name) for name in os.listdir(workdir / "checkpoints") if name.isdigit()}


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "scan"), [("adafactor", True), ("adafactor", False), ("muon", True)]
)
def test_optimizers_with_state_of_their_own_train_on_any_mesh(tmp_path, name, scan):
    """Adafactor's sums of rows and columns have fewer dimensions than the parameters they are named
    for; Muon has no second moment of matrices."""
    c = tiny.tiny(total="2 steps")
    c.model.scan = scan
    c.mesh.fsdp, c.mesh.tensor = 4, 2
    c.optimizer.name = name
    assert tiny.run(c, tmp_path / "run") == exits.DONE
    assert tiny.run(c, tmp_path / "run") == exits.DONE
