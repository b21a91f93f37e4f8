"""A first start that fails binds its work directory to nothing: mend the command, and it runs."""

import shutil
import time

import numpy as np
import pytest
from PIL import Image

from clipjax import config
from clipjax.build import program as build
from clipjax.common import exits
from clipjax.data import tokenizers
from clipjax.data.tokenizers import sentencepiece as sentencepiece_tokenizer
from clipjax.parallel.preemption import Preemption
from tests import processes, tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps whose vocabulary is not the one that its captions would give elsewhere."""
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    c = tiny.tiny(total="2 steps")
    c.tokenizer.max_captions = 300
    assert tiny.run(c, workdir) == exits.DONE
    return workdir


def table(folder, *, bad=0):
    """A CSV of 40 small images with captions, the first `bad` of them damaged."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    words = ["red", "green", "blue", "old", "new", "small", "large", "round", "square"]
    rows = ["filepath,title"]
    for number in range(40):
        file = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file)
        if number < bad:
            file.write_bytes(b"no image")
        rows.append(f"{file.name},a {' '.join(rng.choice(words, 3))} thing {number}")
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    return folder / "train.csv"


def tables(path, **changes):
    c = tiny.tiny(total="2 steps", **changes)
    c.model.text.vocab_size = 300
    c.data.source, c.data.path = "table", str(path)
    return c


def short(**changes):
    return tiny.tiny(total="2 steps", **changes)


# Each is (the first start, what it says, the second), of (the trained run, a folder).


def vocabulary_path(trained, folder):
    first, second = short(), short()
    first.tokenizer.path = str(folder / "none.model")
    return first, "config.tokenizer.path: cannot read", second


def vocabulary_of_another_kind(trained, folder):
    first, second = short(), short()
    first.init.weights = second.init.weights = str(trained)
    first.tokenizer.kind = "clip"
    return first, "set config.tokenizer.kind=sentencepiece", second


def vocabulary_of_another_run(trained, folder):
    """The weights are refused with it; the advice is to leave it out."""
    first, second = short(), short()
    first.init.weights = second.init.weights = str(trained)
    words = np.random.default_rng(0).choice(list("abcdefgh"), (2000, 5))
    captions = [f"{''.join(word)} {''.join(word[::-1])}" for word in words]
    model = sentencepiece_tokenizer.train_sentencepiece(captions, vocab_size=384)
    tokenizers.publish({sentencepiece_tokenizer.MODEL_FILE: model}, folder=folder / "other")
    first.tokenizer.path = str(folder / "other")
    return first, "leave config.tokenizer.path out", second


def vocabulary_size(trained, folder):
    first, second = short(), short()
    first.init.weights = second.init.weights = str(trained)
    first.model.text.vocab_size = 400
    told = "config.model must describe the weights' model: text.vocab_size 384 (here 400)"
    return first, told, second


def vocabulary_too_large(trained, folder):
    first = short()
    first.model.text.vocab_size = 30_000
    return first, "use at most", short()


def no_such_data(trained, folder):
    return tables(folder / "none.csv"), "matches no file", tables(table(folder / "data"))


def damaged_data(trained, folder):
    """The images are copied again: the same settings, other captions and records."""
    file = table(folder / "data", bad=40)
    c = tables(file)

    def mend():
        table(folder / "data")
        return tables(file)

    return c, "none usable", mend


def bad_fraction(trained, folder):
    first, second = (tables(table(folder / "data", bad=20), batch_size=64) for _ in range(2))
    second.data.max_bad_fraction = 0.9
    return first, "max_bad_fraction", second


def evaluation_data(trained, folder):
    first, second = short(), short()
    first.evals.held_out = config.evaluator(
        "retrieval", source="table", path=str(folder / "no.csv")
    )
    second.evals.held_out = config.evaluator("retrieval", max_examples=20)
    return first, "matches no file", second


def class_names(trained, folder):
    """Told before the data are read, which here are damaged as well."""
    names = folder / "names.json"
    names.write_text('{"objects": {}}')
    first, second = tables(table(folder / "data", bad=40)), short()
    first.evals.named = config.evaluator("zero_shot", source="objects", classes=str(names))
    return first, f"config.evals.named.classes={names}: write {{", second


def evaluation_batch(trained, folder):
    first, second = short(), short()
    first.evals.held_out = config.evaluator("retrieval", max_examples=20, batch_size=12)
    second.evals.held_out = config.evaluator("retrieval", max_examples=20, batch_size=16)
    return first, "config.evals.held_out.batch_size=12", second


def weights_of_another_shape(trained, folder):
    first, second = short(), short()
    first.init.weights = second.init.weights = str(trained)
    first.model.embed_dim = 24
    first.model.vision.width = 48
    mends = "embed_dim 16 (here 24), vision.width 32 (here 48)"
    return first, f"config.model must describe the weights' model: {mends}", second


def weights_of_other_layers(trained, folder):
    first, second = short(), short()
    first.init.weights = second.init.weights = str(trained)
    first.model.text.layers = 3
    mends = "config.model must describe the weights' model: text.layers 1 (here 3)"
    return first, f"in this model; {mends}", second


def no_such_weights(trained, folder):
    first = short()
    first.init.weights = str(folder / "nowhere")
    return first, "no such file or folder", short()


def frozen_at_random(trained, folder):
    first, second = short(), short()
    for c in (first, second):
        c.optimizer.learning_rate_factors = ((r"vision/.*", 0.0), (r".*", 1.0))
    second.init.weights = str(trained)
    return first, "set config.init.weights and name vision in init.towers", second


def batch(trained, folder):
    return short(batch_size=12), "does not divide over 8 devices", short()


def mesh(trained, folder):
    first = short()
    first.mesh.data, first.mesh.fsdp = 3, 1
    return first, "config.mesh", short()


def diverging(trained, folder):
    """It logs steps, saves none, and ends; its log is no part of the run that follows."""
    first, second = tiny.tiny(total="40 steps"), tiny.tiny(total="2 steps")
    first.checkpoint.every = "40 steps"
    first.optimizer.learning_rate = 1e30
    first.schedule.warmup = "1 steps"
    return first, "learning_rate", second


FAILURES = [
    *(vocabulary_path, vocabulary_of_another_kind, vocabulary_of_another_run, vocabulary_size),
    *(vocabulary_too_large, no_such_data, damaged_data, bad_fraction, evaluation_data),
    *(
        class_names,
        evaluation_batch,
        weights_of_another_shape,
        weights_of_other_layers,
        no_such_weights,
        frozen_at_random,
        batch,
        mesh,
    ),
    diverging,
]
TO_THE_END = (vocabulary_of_another_kind, bad_fraction)  # the others to the first step


class Reached(Exception):
    """Data, vocabulary, weights and evaluators are there, and the step would be compiled."""


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
def test_mended_it_runs_in_the_same_folder(failure, trained, tmp_path, capsys, monkeypatch):
    first, told, second = failure(trained, tmp_path)
    workdir = tmp_path / "run"
    assert tiny.run(first, workdir) in (exits.BAD_CONFIG, exits.BAD_DATA, exits.DIVERGED)
    assert told in capsys.readouterr().out
    assert workdir.is_dir(), "it failed before the folder was made, and tests nothing"
    second = second() if callable(second) else second
    if failure in TO_THE_END:
        assert tiny.run(second, workdir) == exits.DONE, capsys.readouterr().out
        assert sorted({line["step"] for line in tiny.lines(workdir)}) == [1, 2]
        assert (workdir / "checkpoints" / "2").is_dir()
    else:
        monkeypatch.setattr(build, "compile_step", reached)
        with pytest.raises(Reached):
            tiny.run(second, workdir)


def reached(*arguments, **options):
    raise Reached


def test_the_log_of_a_start_that_saved_nothing_is_kept_apart(tmp_path):
    first, _, second = diverging(None, tmp_path)
    assert tiny.run(first, tmp_path / "run") == exits.DIVERGED
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert tiny.run(second, tmp_path / "run") == exits.DONE
    kept = tmp_path / "run" / "failed_starts" / "1"
    assert (kept / "metrics.jsonl").read_bytes() == before
    assert any((kept / "tensorboard").iterdir())
    assert tiny.run(first, tmp_path / "run") == exits.BAD_CONFIG, "a checkpoint binds"


def test_mended_captions_make_the_vocabulary_anew(tmp_path, monkeypatch):
    """The same settings and path: only the file's content is another."""
    file = table(tmp_path / "data")
    rows = file.read_text().splitlines()
    file.write_text("\n".join([rows[0], *(f"{row.split(',')[0]},zzz zzz" for row in rows[1:])]))
    assert tiny.run(tables(file), tmp_path / "run") == exits.BAD_CONFIG  # too few words
    file.write_text("\n".join(rows) + "\n")
    monkeypatch.setattr(build, "compile_step", reached)
    for workdir in ("run", "straight"):
        with pytest.raises(Reached):
            tiny.run(tables(file), tmp_path / workdir)
    made, straight = (vocabulary(tmp_path / name) for name in ("run", "straight"))
    assert made.read_bytes() == straight.read_bytes()


def test_killed_while_it_starts(tmp_path, monkeypatch):
    """With a vocabulary and no step; the next start has another."""
    process = processes.start(
        "--config=tests/tiny.py", f"--workdir={tmp_path / 'run'}", "--config.total=2 steps"
    )
    deadline = time.monotonic() + processes.TIMEOUT
    while not vocabulary(tmp_path / "run").exists():
        assert process.poll() is None and time.monotonic() < deadline, processes.output(process)
        time.sleep(0.01)
    processes.kill(process)
    process.wait()
    c = short()
    c.model.text.vocab_size = 350
    monkeypatch.setattr(build, "compile_step", reached)
    with pytest.raises(Reached):
        tiny.run(c, tmp_path / "run")


def test_stopped_before_its_first_step(tmp_path, monkeypatch):
    """By Ctrl-C, as a wrong setting was seen: what it saved is no step that was trained."""
    with monkeypatch.context() as patch:
        patch.setattr(Preemption, "poll", lambda self: True)
        assert tiny.run(short(), tmp_path / "run") == exits.PREEMPTED
    assert (tmp_path / "run" / "checkpoints" / "0").is_dir()
    c = short()
    c.model.text.vocab_size, c.model.embed_dim = 350, 24
    assert tiny.run(c, tmp_path / "run") == exits.DONE
    assert tiny.run(short(), tmp_path / "run") == exits.BAD_CONFIG


def test_a_vocabulary_comes_with_the_weights(trained, tmp_path):
    """Its text tower knows words by these ids; a resume needs the weights no more."""
    shutil.copytree(trained, tmp_path / "before")
    c = short()
    c.init.weights = str(tmp_path / "before")
    assert tiny.run(c, tmp_path / "tuned") == exits.DONE
    assert vocabulary(tmp_path / "tuned").read_bytes() == vocabulary(trained).read_bytes()
    shutil.rmtree(tmp_path / "before")
    c.total = "3 steps"
    assert tiny.run(c, tmp_path / "tuned", allow_config_change=True) == exits.DONE


@pytest.mark.multihost
def test_a_vocabulary_comes_with_the_weights_on_two_processes(trained, tmp_path):
    """Whose checkpoint all read together, while the lead alone publishes."""
    started = processes.start_joined(
        "--config=tests/tiny.py",
        f"--workdir={tmp_path / 'run'}",
        "--config.total=2 steps",
        f"--config.init.weights={trained}",
        count=2,
        devices=2,
    )
    codes = [processes.finish(process) for process in started]
    assert codes == [exits.DONE] * 2, "\n".join(map(processes.output, started))
    assert vocabulary(tmp_path / "run").read_bytes() == vocabulary(trained).read_bytes()


def test_no_vocabulary_comes_with_the_image_tower_alone(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "compile_step", reached)
    c = short()
    c.init.weights, c.init.towers = str(trained), ("vision",)
    with pytest.raises(Reached):
        tiny.run(c, tmp_path / "run")
    assert vocabulary(tmp_path / "run").read_bytes() != vocabulary(trained).read_bytes()


def vocabulary(workdir):
    return workdir / "tokenizer" / sentencepiece_tokenizer.MODEL_FILE
