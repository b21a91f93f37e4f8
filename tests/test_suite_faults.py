"""A set's fault is told and written down, and never ends the other sets or the report."""

import dataclasses
import html
import json
import os
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

import clipjax
from clipjax import config, evaluate
from clipjax.common import exits
from clipjax.common.exits import ConfigError, DataError, RemoteError
from clipjax.evals import suites
from clipjax.evals.embed import Preempted
from clipjax.evals.evaluator import Evaluator
from clipjax.evals.protocols import zero_shot
from clipjax.evals.suites import faults
from clipjax.run import evaluation
from clipjax.run import suites as run_suites
from tests import processes, tiny
from tests.data import tars, webdatasets
from tests.devices import xla_flags

NAMES = ("a fox", "a pig", "a bear")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "measured"
    assert tiny.run(tiny.tiny(total="2 steps"), workdir) == exits.DONE
    return workdir


def classes(folder, labels=(0, 1, 2, 0, 1, 2), *, names=NAMES, templates=("{c}",), **options):
    samples = [
        {"jpg": tars.picture(i), "cls": str(label).encode()} for i, label in enumerate(labels)
    ]
    return webdatasets.write(folder, samples, names=names, templates=templates, **options)


def matrix(folder, rows, *, names=NAMES):
    samples = [{"jpg": tars.picture(i), "npy": webdatasets.npy(row)} for i, row in enumerate(rows)]
    return webdatasets.write(folder, samples, names=names, templates=("{c}",), kind="multilabel")


def texts(folder, captions):
    samples = [{"jpg": tars.picture(i), "txt": text.encode()} for i, text in enumerate(captions)]
    return webdatasets.write(folder, samples, kind="retrieval")


def damaged(folder):
    classes(folder)
    samples = [{"jpg": tars.picture(i), "cls": b"0"} for i in range(2)]
    samples.append({"jpg": b"no image", "cls": b"1"})
    return webdatasets.write(folder, samples, names=NAMES, templates=("{c}",))


def with_train(folder, labels, **options):
    classes(folder)
    return classes(folder, labels, split="train", **options)


PROBE = {"run": "linear_probe"}
ALL_ZERO, FEWER = [[0, 0, 0]] * 4, [[1, 0]] * 4
FAULTS = {  # name → (writes the set, settings of `own`, what the record says)
    "fewer columns": (lambda f: matrix(f, FEWER), {}, r"tells of 2 classes, and the set has 3"),
    "ragged": (lambda f: matrix(f, [[1, 0, 0], [1, 0]] * 2), {}, r"record .* tells of 2 classes"),
    "a number": (lambda f: matrix(f, [1, 0, 1, 1]), {}, "each class.*and has 1"),
    "a table": (lambda f: matrix(f, [[[1, 0, 0]]] * 4), {}, "2 dimensions"),
    "texts": (lambda f: matrix(f, [["a", "b", "c"]] * 4), {}, "needs a number for each class"),
    "negative": (lambda f: matrix(f, [[1, -1, 0]] * 4), {}, "needs a number for each class"),
    "not a number": (lambda f: matrix(f, [[1, np.nan, 0]] * 4), {}, "has .*nan"),
    "no positive": (lambda f: matrix(f, ALL_ZERO), {}, "no image shows any of the 3 classes"),
    "no positive to train on": (
        lambda f: [matrix(f, [[1, 0, 1]] * 4), webdatasets.write(
            f,
            [{"jpg": tars.picture(i), "npy": webdatasets.npy([0, 0, 0])} for i in range(4)],
            split="train", names=NAMES, templates=("{c}",), kind="multilabel",
        )],
        PROBE,
        "no training image shows any of the 3 classes",
    ),
    "a label beyond": (lambda f: classes(f, (0, 1, 7)), {}, "'7', which is none of the set's 3"),
    "a negative label": (lambda f: classes(f, (0, 1, -1)), {}, "'-1', which is none of the set's"),
    "a label in words": (lambda f: classes(f, (0, 1, "fox")), {}, "its .cls is b'fox', no number"),
    "a damaged image": (damaged, {}, "is unusable"),
    "another metric": (classes, {"metric": "mean_recall"}, '"mean_recall" is none of zero_shot'),
    "a metric of ranks": (
        classes, {"metric": "mean_average_precision"}, "is none of zero_shot on a classification"
    ),
    "classes' metric of captions": (
        lambda f: texts(f, ["a fox", "a pig"]),
        {"metric": "top1_accuracy", "run": "retrieval"},
        "is none of retrieval on a retrieval set; choose mean_recall_at_1",
    ),
    "roc_auc of three": (classes, {"metric": "roc_auc"}, "roc_auc needs two classes, and"),
    "roc_auc of one": (
        lambda f: classes(f, (1, 1, 1), names=NAMES[:2]),
        {"metric": "roc_auc"},
        "roc_auc needs images of both classes, and all are of '1'",
    ),
    "top-5 of three": (classes, {"metric": "top5_accuracy"}, "needs six classes, and there are 3"),
    "groups without groups": (
        classes, {"metric": "worst_group_top1_accuracy"}, "has no groups beside the classes"
    ),
    "no template": (
        lambda f: classes(f, templates=("a photo",)), {}, '"a photo" is no template'
    ),
    "two places": (lambda f: classes(f, templates=("{c} {c}",)), {}, "is no template"),
    "too long": (lambda f: classes(f, names=("a " * 99, "b", "c")), {}, "does not fit"),
    "one class": (lambda f: classes(f, (0, 0), names=("x",)), {}, "one class only"),
    "trained on one class": (
        lambda f: with_train(f, (2, 2, 2, 2)), PROBE, "all training images are of one class, '2'"
    ),
    "one image of each": (
        lambda f: with_train(f, (0, 1, 2)), PROBE, "no class has two training images"
    ),
    "trained on other names": (
        lambda f: [with_train(f, (0, 1, 2, 0)), classes(
            f.with_name("elsewhere"), (0, 1, 2, 0), split="train", names=NAMES[::-1]
        )],
        {**PROBE, "train_path": "elsewhere"},
        "its class names are others than those of",
    ),
    "no caption": (lambda f: texts(f, ["a fox", " "]), {"run": "retrieval"}, "has no caption"),
    "another size": (classes, {"n": 5}, "holds 6 images, and .* says n=5"),
}  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """All of them in one suite, between two sets that are as they should be: its results, and what
    the program said last."""
    top, entries = tmp_path_factory.mktemp("sets"), []
    for number, (write, settings, _) in enumerate(FAULTS.values()):
        folder = top / f"set{number}"
        write(folder)
        probed = settings.get("run") == "linear_probe"
        train = {"train_path": top / settings.get("train_path", folder)} if probed else {}
        entries.append(suites.own(folder.name, path=folder, **{**settings, **train}))
    for place, name in ((0, "first"), (len(entries), "last")):
        entries.insert(place, suites.own(name, path=classes(top / name)))
    suite = suites.Suite("mine", tuple(entries))
    with pytest.raises(DataError) as caught:
        run_suites.on_weights(str(trained), suite, output=str(top / "out"))
    return top / "out" / "mine", str(caught.value)


def record_of(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_all_faults_together_leave_the_other_sets_and_the_report(evaluated):
    folder, said = evaluated
    total = len(FAULTS) + 2
    assert said.startswith(f"{len(FAULTS)} of {total} sets cannot be used") and "\n" not in said
    for name in ("first", "last"):
        record = record_of(folder, name)
        assert record["status"] == "measured" and record["measurements"]["zero_shot"]
    page = (folder / "report.html").read_text()
    assert f"2 of {total} data sets measured" in page and "cannot be used" in page
    summary = json.loads((folder / "summary.json").read_text())
    assert {row["set"] for row in summary["rows"]} == {"first", "last"}
    assert len(summary["failed"]) == len(FAULTS)


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_says_what_is_wrong(evaluated, name):
    number, told = list(FAULTS).index(name), FAULTS[name][2]
    record = record_of(evaluated[0], f"set{number}")
    assert record["status"] == "failed" and re.search(told, record["message"]), record["message"]
    assert not record["traceback"] and "\n" not in record["message"]
    assert not record["measurements"] and len(record["message"]) < 400


def test_an_error_that_nobody_expects_is_kept_with_its_traceback(
    trained, tmp_path, monkeypatch, capsys
):
    for name in ("one", "two"):
        with_train(tmp_path / name, (0, 1, 2) * 3)
    known = zero_shot.PROTOCOL

    def measure(evaluated):
        if evaluated.data.entry.id == "one":
            raise IndexError("index 7 is\nout of bounds")
        return known.measure(evaluated)

    broken = dataclasses.replace(known, measure=measure)
    monkeypatch.setattr(zero_shot, "PROTOCOL", broken)
    entries = [
        suites.own(name, path=tmp_path / name, train_path=tmp_path / name)
        for name in ("one", "two")
    ]
    suite = suites.Suite("mine", tuple(entries), run=("zero_shot", "linear_probe"))
    with pytest.raises(DataError, match="1 of 2 sets cannot be used, first one: zero_shot: Index"):
        run_suites.on_weights(str(trained), suite, output=str(tmp_path / "out"))
    said = capsys.readouterr()
    line = (
        "one, zero_shot: FAILED: IndexError: index 7 is out of bounds; its traceback is in one.json"
    )
    assert line in said.out and "Traceback" not in said.out + said.err
    record = record_of(tmp_path / "out" / "mine", "one")
    assert "in measure" in record["traceback"] and "IndexError" in record["traceback"]
    assert list(record["measurements"]) == ["linear_probe"]  # its other protocol
    assert set(record_of(tmp_path / "out" / "mine", "two")["measurements"]) == set(suite.run)
    # Mended, the set is measured at the next start, and what was measured is kept.
    monkeypatch.setattr(zero_shot, "PROTOCOL", known)
    run_suites.on_weights(str(trained), suite, output=str(tmp_path / "out"))
    assert "1 to measure, 1 measured before" in capsys.readouterr().out
    record = record_of(tmp_path / "out" / "mine", "one")
    assert record["status"] == "measured" and not record["message"] and not record["traceback"]


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        SystemExit(3),
        MemoryError("host"),
        Preempted(),
        RemoteError("gone for now"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
        ValueError("UNAVAILABLE: a peer is gone"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_the_sets_own_ends_the_program(error):
    def call():
        raise error

    with pytest.raises(type(error)):
        faults.attempt(call)


def test_what_changes_how_a_figure_is_read_stands_beside_it(trained, tmp_path, capsys):
    """Equal names, a class that no image shows, one without training images, another metric."""
    twice = classes(tmp_path / "twice", (0, 1, 2, 2), names=("crane", "crane", "ox", "猫"))
    probed = with_train(tmp_path / "probed", (0, 1) * 4)
    options = {"train_path": probed, "metric": "macro_f1", "run": "linear_probe"}
    entries = (suites.own("twice", path=twice), suites.own("probed", path=probed, **options))
    suite = suites.Suite("mine", entries)
    run_suites.on_weights(str(trained), suite, output=str(tmp_path / "out"))
    folder, said = tmp_path / "out" / "mine", capsys.readouterr().out
    warned = record_of(folder, "twice")["measurements"]["zero_shot"]["warnings"]
    absent, alike = warned[0], warned[-1]
    assert alike.startswith(
        "2 of 4 classes have prompts that this model reads as the same: 'crane'"
    )
    assert alike.endswith("none of their 2 images can be right")
    assert absent.startswith("1 of 4 classes have no images here: '猫'; their names compete")
    untrained, other = record_of(folder, "probed")["measurements"]["linear_probe"]["warnings"]
    assert untrained == "no training images of 'a bear': none of the 2 images tested can be right"
    assert other == "measured by top1_accuracy: a probe has no macro_f1"
    page, table = ((folder / name).read_text() for name in ("report.html", "summary.md"))
    for warning in (alike, absent, untrained, other):
        assert warning in said and warning in table and warning in html.unescape(page)


def test_weights_that_are_no_numbers_are_said_beside_every_figure(trained, tmp_path):
    model = clipjax.load(trained)
    model.variables = jax.tree.map(lambda x: x * np.nan, model.variables)
    probed = with_train(tmp_path / "probed", (0, 1, 2) * 3)
    entries = (
        suites.own("classes", path=classes(tmp_path / "classes", (0, 1) * 9, names=NAMES[:2])),
        suites.own("auc", path=tmp_path / "classes", metric="roc_auc"),
        suites.own("many", path=matrix(tmp_path / "many", np.eye(3, dtype=int))),
        suites.own("texts", path=texts(tmp_path / "texts", NAMES), run="retrieval"),
        suites.own("probed", path=probed, train_path=probed, run=("linear_probe", "few_shot")),
    )
    out, suite = tmp_path / "out", suites.Suite("mine", entries)
    run_suites._run(model, suite, folder=str(out), path=str(trained))
    for entry in entries[:4]:
        (made,) = record_of(out, entry.id)["measurements"].values()
        assert any("are no numbers; they count as wrong" in each for each in made["warnings"])
        assert not any("class order" in each for each in made["warnings"])
    record = record_of(out, "probed")
    assert record["status"] == "failed" and not record["traceback"]
    assert record["message"].count("no image has features that are numbers") == 2


def test_a_protocol_that_fits_no_set_is_told(trained, tmp_path):
    suite = suites.Suite("mine", suites.own("x", path=classes(tmp_path / "x"), run="retrieval"))
    with pytest.raises(DataError, match=r"retrieval is not for a classification set; these are: z"):
        run_suites.on_weights(str(trained), suite, output=str(tmp_path / "out"))


def test_a_protocol_without_its_data_says_what_is_missing(trained, tmp_path):
    suite = suites.Suite("mine", suites.own("x", path=classes(tmp_path / "x"), run="linear_probe"))
    told = "the only set is missing, first x: linear_probe: x: has no train_path for a probe; give"
    with pytest.raises(DataError, match=told):
        run_suites.on_weights(str(trained), suite, output=str(tmp_path / "out"))


def test_an_evaluators_fault_leaves_the_others(tmp_path, capsys):
    c = tiny.tiny(total="2 steps")
    for name in ("first", "last"):
        c.evals[name] = config.evaluator("zero_shot", every="2 steps", source="objects")
    c.evals.pairs = config.evaluator("retrieval", every="2 steps", max_examples=9)
    for evaluator in c.evals.values():
        evaluator.max_examples = 9
    assert tiny.run(c, tmp_path) == exits.DONE
    capsys.readouterr()
    model = clipjax.load(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        measured = Evaluator.__call__

        def call(self, variables, **options):
            if self.chance.get("top1_accuracy") and not called:
                called.append(self)
                raise DataError("record 7 is unusable")
            return measured(self, variables, **options)

        called = []
        patch.setattr(Evaluator, "__call__", call)
        with pytest.raises(DataError, match="1 of 3 evaluators failed: first"):
            evaluation.evaluate_checkpoint(model, workdir=str(tmp_path))
    said = capsys.readouterr().out
    assert "first: FAILED: record 7 is unusable" in said and "last: top-1 accuracy" in said
    result = json.loads((tmp_path / "evaluations" / "step_2.json").read_text())
    assert set(result["evaluations"]) == {"last", "pairs"}
    assert result["failed"] == {"first": "record 7 is unusable"}


def test_following_a_run_goes_on_after_a_set_that_fails(trained, tmp_path, capsys):
    entries = [suites.own("ok", path=classes(tmp_path / "ok"))]
    entries.append(suites.own("bad", path=matrix(tmp_path / "bad", FEWER)))
    steps = sorted(
        int(path.name) for path in (trained / "checkpoints").iterdir() if path.name.isdigit()
    )
    with pytest.raises(DataError, match="1 of 2 sets cannot be used, first bad"):
        run_suites.watch(str(trained), suites.Suite("mine", tuple(entries)), patience=0.1)
    for step in steps:
        folder = trained / "evaluations" / "mine" / f"step_{step}"
        assert record_of(folder, "ok")["measurements"] and (folder / "report.html").exists()
    assert capsys.readouterr().out.count("2 sets: 2 to measure") == len(steps)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("x = 1", "define get_suite"),
        ("get_suite = 3", "TypeError: 'int' object is not callable"),
        ("def get_suite(): return None", "must return a suites.Suite, not None"),
        ("def get_suite(): return ['pets']", "must return a suites.Suite, not"),
        ("def get_suite(:", "SyntaxError"),
        ("import clipjaxx", "ModuleNotFoundError: No module named 'clipjaxx'"),
        ("from clipjax.evals import suite", "ImportError"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("def get_suite(x): return x", "TypeError"),
        ("{own}suites.Suite('s', ('pets',))", "'pets' is no set; write suites.get"),
        ("{own}suites.Suite('s', None)", "TypeError"),
        (
            "{own}suites.Suite('a/b', suites.get('pets'))",
            'the suite "a/b" needs a name that a file',
        ),
        ("{own}suites.Suite('s', suites.own('..', path='d'))", "needs a name that a file can have"),
        ("{own}suites.Suite('s', suites.own('x', path=3))", "path=3: is no path"),
        ("{own}suites.Suite('s', suites.own('x', path='d', n='21'))", "n='21': is no number of"),
        (
            "{own}suites.Suite('s', suites.own('x', path='d', metric='acc1'))",
            '"acc1" is unknown; k',
        ),
        ("{own}suites.Suite('s', suites.own('x', path='d', metric=['a']))", "is no text"),
        (
            "{own}suites.Suite('s', suites.own('x', path='d', metric='top1_acuracy'))",
            "did you mean",
        ),
        (
            "{own}suites.Suite('s', dataclasses.replace(suites.get('pets'), metric='acc'))",
            'metric of pets: "acc" is unknown',
        ),
    ],
)
def test_a_suite_file_that_is_wrong_is_one_line(tmp_path, content, told):
    own = "import dataclasses\nfrom clipjax.evals import suites\ndef get_suite(): return "
    (tmp_path / "s.py").write_text(content.replace("{own}", own))
    with pytest.raises(ConfigError) as caught:
        evaluate.run("", weights="x", suite=str(tmp_path / "s.py"))
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.code == exits.BAD_CONFIG


SUITE_OF_TWO_PROCESSES = """
import dataclasses
import os

from clipjax.evals import suites
from clipjax.evals.protocols import zero_shot

FIRST = os.environ["CLIPJAX_PROCESS_ID"] == "0"
known = zero_shot.PROTOCOL


def measure(evaluated):
    name = evaluated.data.entry.id
    if name == "broken" or (name == "alone" and not FIRST):
        raise IndexError("nobody expects it")
    return known.measure(evaluated)


zero_shot.PROTOCOL = dataclasses.replace(known, measure=measure)


def get_suite():
    here = os.path.dirname(__file__)
    entries = [suites.own(name, path=f"{here}/{name}") for name in NAMES]
    entries.append(suites.own("differs", path=f"{here}/{'first' if FIRST else 'other'}"))
    entries.append(suites.own("gone", path=f"{here}/{'first' if FIRST else 'nowhere'}"))
    entries.append(suites.own("last", path=f"{here}/first"))
    return suites.Suite("mine", tuple(entries))
"""


def two_processes(trained, suite, out):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    group = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "clipjax.evaluate", f"--weights={trained}"),
                *(f"--suite={suite}", f"--output={out}"),
            ],
            cwd=processes.ROOT,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": xla_flags(2),
                "CLIPJAX_COORDINATOR": f"127.0.0.1:{port}",
                "CLIPJAX_NUM_PROCESSES": "2",
                "CLIPJAX_PROCESS_ID": str(index),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=processes.TIMEOUT)[0] for process in group]
    return [process.returncode for process in group], said


@pytest.mark.multihost
def test_two_processes_go_on_after_the_fault_of_one(trained, tmp_path):
    """An image that one of them reads is damaged, one sees other data, one sees none, and both
    fail; the sets around them are measured."""
    for name in ("first", "broken"):
        classes(tmp_path / name, (0, 1, 2) * 7)
    classes(tmp_path / "other", (0, 1, 2) * 6)
    samples = [{"jpg": tars.picture(i), "cls": b"%d" % (i % 3)} for i in range(21)]
    samples[1]["jpg"] = b"no image"  # the first batch's second row
    webdatasets.write(tmp_path / "damaged", samples, names=NAMES, templates=("{c}",))
    text = SUITE_OF_TWO_PROCESSES.replace("NAMES", "('first', 'damaged', 'broken')")
    (tmp_path / "s.py").write_text(text)
    codes, said = two_processes(trained, tmp_path / "s.py", tmp_path / "out")
    assert codes == [exits.BAD_DATA] * 2, said
    assert "4 of 6 sets cannot be used" in said[0] and "Traceback" not in said[0] + said[1], said
    folder = tmp_path / "out" / "mine"
    records = {name: record_of(folder, name) for name in ("damaged", "broken", "differs", "gone")}
    assert "s0000001 is unusable" in records["damaged"]["message"]
    assert "IndexError: nobody expects it" in records["broken"]["message"]
    assert "process 1 sees other data than process 0" in records["differs"]["message"]
    assert "process 1: " in records["gone"]["message"]
    for name in ("first", "last"):
        assert record_of(folder, name)["status"] == "measured"
    assert (folder / "report.html").exists()


@pytest.mark.multihost
def test_a_process_that_fails_alone_in_a_measurement_ends_both(trained, tmp_path):
    for name in ("first", "alone"):
        classes(tmp_path / name, (0, 1, 2) * 7)
    text = SUITE_OF_TWO_PROCESSES.replace("NAMES", "('first', 'alone')")
    head = "from clipjax.evals.suites import faults\n\nfaults.PATIENCE_SECONDS = 2.0\n"
    (tmp_path / "s.py").write_text(head + text)
    codes, said = two_processes(trained, tmp_path / "s.py", tmp_path / "out")
    assert codes == [exits.BAD_DATA] * 2, said
    assert "on one process only: IndexError: nobody expects it" in said[0] + said[1]
