"""A fault of one evaluator of a run: told at the start, or beside its name, and ends nothing."""

import dataclasses
import json

import pytest

from clipjax import config
from clipjax.build import data as build_data
from clipjax.common import exits
from clipjax.common.exits import ConfigError, DataError, RemoteError
from clipjax.evals.evaluator import Evaluator
from clipjax.evals.metrics import Estimate
from clipjax.evals.protocols.registry import Protocol
from clipjax.evals.suites.results import Measurement
from clipjax.pictures import history
from clipjax.run import evaluation, folder
from tests import processes, tiny
from tests.data import tars

STEPS = "2 steps"


def watched(**changes):
    """Two evaluators, the first of which fails."""
    c = tiny.tiny(**changes)
    for name in ("broken", "last"):
        c.evals[name] = config.evaluator("loss", every=STEPS, source="scenes", max_examples=9)
    return c


def failing(patch, *problems):
    """Let the measurements of "broken" raise or give these, one after the other; then its own."""
    measured, calls, left = Evaluator.__call__, [], list(problems)

    def call(self, variables, **options):
        calls.append(self)
        result = left.pop(0) if self is calls[0] and left else None
        if isinstance(result, Exception):
            raise result
        if result:
            figures = {name: Estimate(value, value, value, 1) for name, value in result.items()}
            protocol = Protocol(lambda evaluated: Measurement("loss", figures))
            other = dataclasses.replace(self, protocol=protocol)
            values = measured(other, variables, **options)
            self.notes = other.notes
            return values
        return measured(self, variables, **options)

    patch.setattr(Evaluator, "__call__", call)


def evaluation_lines(workdir, name):
    lines = [line for line in tiny.lines(workdir) if any(f"eval/{name}/" in key for key in line)]
    return {line["step"]: line for line in lines}


PROBLEMS = [  # an error, what is said of it, whether nobody expects it
    (DataError("record 7 is unusable"), "record 7 is unusable", False),
    (FileNotFoundError(2, "No such file", "held/3.tar"), "held/3.tar", True),
    (RemoteError("gs://b/3.tar does not come"), "does not come", False),
    (KeyError("label"), "KeyError: 'label'", True),
]


def test_training_and_the_other_evaluators_go_on(tmp_path, capsys, monkeypatch):
    failing(monkeypatch, *(error for error, _, _ in PROBLEMS))
    c = watched(total="8 steps")
    c.checkpoint.keep_best.metric = "eval/broken/loss"
    assert tiny.run(c, tmp_path) == exits.BAD_DATA
    out = capsys.readouterr().out
    assert out.count("broken: FAILED, training goes on: ") == 4
    assert out.count("its traceback is in metrics.jsonl") == 2
    assert "the training is complete and saved; 1 of 2 evaluators failed at its end: broken" in out
    assert sorted(tiny.values(tmp_path)) == [*range(1, 9)]
    assert all("eval/last/loss" in line for line in evaluation_lines(tmp_path, "last").values())
    lines = evaluation_lines(tmp_path, "broken")
    assert sorted(lines) == sorted(evaluation_lines(tmp_path, "last")) == [2, 4, 6, 8]
    for line, (_, said, unexpected) in zip(lines.values(), PROBLEMS, strict=True):
        assert said in line["eval/broken/failed"] and said in out
        assert ("Traceback" in line.get("eval/broken/traceback", "")) == unexpected
    assert "broken: FAILED at step 8: KeyError: 'label'" in history.notes(log_of(tmp_path))


def log_of(workdir):
    return str(workdir / "metrics.jsonl")


def test_the_next_start_measures_only_what_failed(tmp_path, capsys, monkeypatch):
    c = watched(total="2 steps")
    with monkeypatch.context() as patch:
        failing(patch, DataError("record 7 is unusable"))
        assert tiny.run(c, tmp_path) == exits.BAD_DATA
    before = tiny.lines(tmp_path)
    assert tiny.run(c, tmp_path) == exits.DONE
    (added,) = tiny.lines(tmp_path)[len(before) :]
    assert added["step"] == 2 and "eval/broken/loss" in added
    assert not any("/last/" in key for key in added)
    assert not any("FAILED" in note for note in history.notes(log_of(tmp_path)))
    capsys.readouterr()
    assert tiny.run(c, tmp_path) == exits.DONE
    assert "the run is complete" in capsys.readouterr().out


def test_a_fault_that_passes_and_a_figure_that_is_no_number(tmp_path, capsys, monkeypatch):
    failing(monkeypatch, KeyError("label"), {"loss": float("nan"), "is": "a text"})
    assert tiny.run(watched(total="4 steps"), tmp_path) == exits.DONE
    lines = evaluation_lines(tmp_path, "broken")
    assert "eval/broken/failed" in lines[2] and "eval/broken/failed" not in lines[4]
    told = "broken: 9 of 1,000 records, spread over all; loss: no number, nothing counts for it"
    assert f"note: {told}" in capsys.readouterr().out
    assert told in history.notes(log_of(tmp_path))


def pairs(path, *, damaged=()):
    """A shard of nine pairs."""
    entries = []
    for i in range(9):
        image = b"no image" if i in damaged else tars.picture(i)
        entries += [(f"{i:03}.jpg", image), (f"{i:03}.txt", f"picture number {i}".encode())]
    tars.write(path, entries)


def held_out(path, **changes):
    c = tiny.tiny(**changes, total="4 steps")
    c.evals.held = config.evaluator("loss", every=STEPS, path=str(path))
    c.evals.pairs = config.evaluator("loss", every=STEPS, source="scenes", max_examples=9)
    return c


@pytest.mark.parametrize("damaged", [None, (0,), tuple(range(9))])
def test_bad_data_are_told_before_the_first_step(damaged, tmp_path, capsys):
    if damaged is not None:
        pairs(tmp_path / "held.tar", damaged=damaged)
    code = tiny.run(held_out(tmp_path / "held.tar"), tmp_path / "run")
    assert code in (exits.BAD_CONFIG, exits.BAD_DATA)
    out = capsys.readouterr().out
    assert "held.tar" in out or "record 000 is unusable" in out
    assert tiny.lines(tmp_path / "run") == []


@pytest.mark.slow
def test_data_that_are_gone_at_a_later_start_do_not_end_it(tmp_path, capsys):
    """Where they have been measured on; a new evaluator's are asked for."""
    pairs(tmp_path / "held.tar")
    c = held_out(tmp_path / "held.tar")
    assert tiny.run(c, tmp_path / "run") == exits.DONE
    (tmp_path / "held.tar").unlink()
    c.total = "6 steps"
    capsys.readouterr()
    code = tiny.run(c, tmp_path / "run", allow_config_change=True)
    out = capsys.readouterr().out
    assert code == exits.BAD_DATA, out
    assert "warning     config.evals.held measures nothing in this start" in out
    assert "step 6, held: FAILED, training goes on" in out
    assert "eval/pairs/loss" in evaluation_lines(tmp_path / "run", "pairs")[6]
    c.evals.new = config.evaluator("loss", every=STEPS, path=str(tmp_path / "none.tar"))
    c.total = "8 steps"
    assert tiny.run(c, tmp_path / "run", allow_config_change=True) == exits.BAD_CONFIG
    assert "none.tar" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"classes": "{}/none.json"}, r"classes=.*none\.json: cannot be read"),
        ({"classes": "digit"}, r'classes: "digit" is unknown \(did you mean "digits"\?\)'),
        ({"templates": ("a photo",)}, r'templates: "a photo" is no template'),
    ],
)
def test_names_that_cannot_be_read_are_told_before_data_are(setting, told, tmp_path, monkeypatch):
    monkeypatch.setattr(build_data, "source", None)  # nothing is opened
    c = tiny.tiny()
    values = {
        key: value.format(tmp_path) if key == "classes" else value for key, value in setting.items()
    }
    c.evals.named = config.evaluator("zero_shot", source="digits", **values)
    with pytest.raises(ConfigError, match=rf"^config\.evals\.named\.{told}"):
        folder.open_for_training(str(tmp_path / "run"), c, allow_config_change=False)
    begun = tmp_path / "begun" / "checkpoints" / "2"
    begun.mkdir(parents=True)
    (tmp_path / "begun" / "config.json").write_text(json.dumps(config.to_keep(c)))
    folder.open_for_training(str(tmp_path / "begun"), c, allow_config_change=False)


@pytest.mark.slow
def test_an_evaluator_that_fails_in_the_next_stage_does_not_end_the_run(tmp_path, capsys):
    pairs(tmp_path / "held.tar")
    c = held_out(tmp_path / "held.tar")
    c.evals.held.every = "1000 steps"  # it has not measured when the second stage begins
    c.stages.small = config.stage("32 examples", image_size=16)
    real = Evaluator.__call__

    def call(self, *args, **options):
        (tmp_path / "held.tar").unlink(missing_ok=True)
        return real(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "__call__", call)
        assert tiny.run(c, tmp_path / "run") == exits.BAD_DATA
    out = capsys.readouterr().out
    assert "step 4, held: FAILED, training goes on" in out and "starting at 2;" in out


def test_evaluate_measures_the_others_where_one_cannot_be_opened(tmp_path, capsys):
    import clipjax

    pairs(tmp_path / "held.tar")
    assert tiny.run(held_out(tmp_path / "held.tar"), tmp_path / "run") == exits.DONE
    (tmp_path / "held.tar").unlink()
    model = clipjax.load(tmp_path / "run")
    with pytest.raises(DataError, match="1 of 2 evaluators failed: held"):
        evaluation.evaluate_checkpoint(model, workdir=str(tmp_path / "run"))
    result = json.loads((tmp_path / "run" / "evaluations" / "step_4.json").read_text())
    assert set(result["evaluations"]) == {"pairs"} and "held.tar" in result["failed"]["held"]


BROKEN_ON_ONE = """
import jax
from clipjax.data import eval_batches
from tests import tiny
from tests import test_evaluator_faults

def get_config():
    c = test_evaluator_faults.watched()
    c.evals.broken.kind = KIND
    c.evals.broken.max_examples = 10
    return c

real = eval_batches.load_eval_image

def load(index, *, source, **options):
    if len(source) == 10 and index == INDEX and jax.process_index() == 1 and calls:
        raise FileNotFoundError(2, "No such file", "here/alone.jpg")
    calls.append(index)
    return real(index, source=source, **options)

calls = []
eval_batches.load_eval_image = load
"""


@pytest.mark.multihost
@pytest.mark.parametrize(("kind", "index"), [("loss", 8), ("retrieval", 1)])
def test_a_file_that_one_process_lacks_ends_neither(kind, index, tmp_path):
    """Read in a batch, or for the contact sheet alone."""
    file = tmp_path / "broken.py"
    file.write_text(BROKEN_ON_ONE.replace("KIND", repr(kind)).replace("INDEX", str(index)))
    group = processes.start_joined(
        *(f"--config={file}", f"--workdir={tmp_path / 'run'}"),
        count=2,
        devices=2,
        environment={"PYTHONPATH": str(processes.ROOT)},
    )
    codes = [processes.finish(process) for process in group]
    said = "\n".join(map(processes.output, group))
    assert codes == [exits.BAD_DATA] * 2, said
    lines = evaluation_lines(tmp_path / "run", "broken")
    assert sorted(lines) == [2, 4, 6]
    for line in lines.values():
        assert "process 1: FileNotFoundError" in line["eval/broken/failed"]
    assert sorted(evaluation_lines(tmp_path / "run", "last")) == [2, 4, 6]
