"""Suites through the program: results, resuming, what cannot be measured, following a run."""

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import clipjax
from clipjax import config, evaluate
from clipjax.common import exits
from clipjax.common.exits import CleanExit, ConfigError, DataError
from clipjax.evals import suites
from clipjax.evals.evaluated import EvaluatedSet
from clipjax.evals.protocols import retrieval, zero_shot
from clipjax.evals.suites import report
from clipjax.run import suites as run_suites
from tests import processes, tiny
from tests.data import tars, webdatasets
from tests.devices import xla_flags

NAMES = ("a fox", "a pig", "a bear")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "measured"
    assert tiny.run(tiny.tiny(total="4 steps"), workdir) == exits.DONE
    return workdir


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Three small sets of a user's own."""
    folder = tmp_path_factory.mktemp("sets")
    samples = [{"jpg": tars.picture(i), "cls": b"%d" % (i % 3)} for i in range(21)]
    webdatasets.write(folder / "one", samples, names=NAMES, templates=["{c} here", "{c}"])
    samples = [{"jpg": tars.picture(i), "txt": b"a fox\na red pig"} for i in range(9)]
    webdatasets.write(folder / "texts", samples, kind="retrieval")
    samples = [{"jpg": tars.picture(i), "npy": webdatasets.npy([i % 2, 1, 0])} for i in range(9)]
    webdatasets.write(folder / "many", samples, kind="multilabel", names=NAMES, templates=["{c}"])
    return folder


def suite_file(path, sets, *, more=""):
    path.write_text(
        "from clipjax.evals import suites\n"
        "def get_suite():\n"
        "    return suites.Suite('mine', (\n"
        f"        suites.own('one', path='{sets}/one', n=21),\n"
        f"        suites.own('texts', path='{sets}/texts'),\n"
        f"        suites.own('many', path='{sets}/many'),\n{more}"
        "    ), run=('zero_shot', 'retrieval'))\n"
    )
    return str(path)


def record(folder, name):
    return json.loads((folder / "mine" / f"{name}.json").read_text())


def test_each_kind_of_set_is_measured_and_reported(trained, sets, tmp_path, capsys):
    file = suite_file(tmp_path / "s.py", sets)
    out = tmp_path / "out"
    assert evaluate.run("", weights=str(trained), suite=file, output=str(out)) == exits.DONE
    told = capsys.readouterr().out
    assert "mine: 3 sets: 3 to measure" in told and "report.html" in told
    one = record(out, "one")
    made = one["measurements"]["zero_shot"]
    assert one["data"]["n"] == 21 == made["figures"]["top1_accuracy"]["n"]
    assert one["data"]["expected_n"] == {"own": 21} and one["data"]["agrees_with"] == ["own"]
    assert made["details"]["prompts"]["origin"] == "data" and made["settings"]["prompts"]
    assert one["weights"]["step"] == 4 and one["weights"]["examples_seen"] == 64
    assert "Pillow's bicubic" in one["preprocessing"]["resize"]
    assert one["precision"]["towers"] == "float32" and "jax" in one["versions"]
    with np.load(out / "mine" / "arrays" / "one.zero_shot.npz") as arrays:
        right = int(np.sum(arrays["label"] == arrays["chosen"]))
    assert made["figures"]["top1_accuracy"]["value"] == right / 21
    figures = record(out, "texts")["measurements"]["retrieval"]["figures"]
    assert {"mean_recall_at_1", "prefixed_mean_recall_at_1", "mean_recall"} <= set(figures)
    assert record(out, "many")["measurements"]["zero_shot"]["metric"] == "mean_average_precision"
    summary = json.loads((out / "mine" / "summary.json").read_text())
    assert [row["set"] for row in summary["rows"]] == ["one", "texts", "many"]
    header, row = (out / "mine" / "summary.csv").read_text().splitlines()
    assert header.startswith("name,pretrained,Average perf. on 38 datasets,ImageNet 1k,")
    assert row.startswith(f"measured,{one['weights']['id']},,,")
    page = (out / "mine" / "report.html").read_text()
    assert page.count("data:image/png;base64") >= 3 and "<script" not in page
    assert not [p for p in out.rglob("*") if p.name.endswith(".tmp")]


def test_captions_that_only_the_prefix_makes_too_long_are_not_warned_of(trained, tmp_path, capsys):
    tokenizer, text = clipjax.load(trained).tokenizer, "a fox"
    while not tokenizer.encode([f"{text} a fox"])[1][0]:
        text += " a fox"
    samples = [{"jpg": tars.picture(i), "txt": text.encode()} for i in range(3)]
    webdatasets.write(tmp_path / "texts", samples, kind="retrieval")
    (tmp_path / "s.py").write_text(
        "from clipjax.evals import suites\n"
        "def get_suite():\n"
        f"    texts = suites.own('texts', path='{tmp_path}/texts')\n"
        "    return suites.Suite('mine', (texts,), run=('retrieval',))\n"
    )
    options = {"weights": str(trained), "output": str(tmp_path / "out")}
    assert evaluate.run("", suite=str(tmp_path / "s.py"), **options) == exits.DONE
    assert "longer than the model reads" not in capsys.readouterr().out
    details = record(tmp_path / "out", "texts")["measurements"]["retrieval"]["details"]
    assert (details["captions_cut"], details["prefixed_captions_cut"]) == (0, 3)


def test_a_set_of_cues_stands_in_datacomps_column(trained, tmp_path, capsys):
    names = [f"thing {i}" for i in range(12)]
    (tmp_path / "winogavil" / "winogavil_images").mkdir(parents=True)
    for i, name in enumerate(names):
        file = tmp_path / "winogavil" / "winogavil_images" / f"{name}.jpg"
        file.write_bytes(tars.picture(i))
    with (tmp_path / "winogavil" / "winogavil_dataset.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["cue", "candidates", "associations"])
        for cue, count in (("orange", 10), ("meal", 5), ("light", 12)):
            rows.writerow([cue, json.dumps(names[:count]), json.dumps(names[1:3])])
    suite = (
        "import dataclasses\n"
        "from clipjax.evals import suites\n"
        "def get_suite():\n"
        "    known = suites.find('datacomp38')\n"
        "    size = {'open_clip': suites.Expected(3, 'jaccard_10_12')}\n"
        "    sets = tuple(dataclasses.replace(e, protocols=size) if e.id == 'winogavil' else e\n"
        "                 for e in known.entries)\n"
        "    return suites.Suite('mine', sets, known.run)\n"
    )
    (tmp_path / "s.py").write_text(suite)
    options = {"data": str(tmp_path), "output": str(tmp_path / "out"), "compare": "ViT-B/32"}
    suite = str(tmp_path / "s.py")
    assert evaluate.run("", weights=str(trained), suite=suite, **options) == exits.DONE
    assert "38 sets: 1 to measure, 0 measured before, 37 missing" in capsys.readouterr().out
    made = record(tmp_path / "out", "winogavil")["measurements"]["associations"]
    assert made["figures"]["jaccard_10_12"]["n"] == 2 and made["details"]["cues"] == 3
    lines = csv.DictReader((tmp_path / "out" / "mine" / "summary.csv").open())
    ours, theirs = lines
    assert float(ours["WinoGAViL"]) == pytest.approx(
        made["figures"]["jaccard_10_12"]["value"], abs=1e-4
    )
    assert theirs["WinoGAViL"] == "0.4125" and theirs["pretrained"] == "open_clip"


def test_videos_of_registered_sets_are_measured(trained, tmp_path, capsys):
    lists = {}
    for i in range(32):
        name, group, part = f"Class{i % 2}", i // 4 + 1, "test" if i < 8 else "train"
        video = f"{name}/v_{name}_g{group:02}_c{i:02}"
        for number in (1, 2, 3):
            kind = "test" if i // 8 + 1 == number else "train"
            lists[f"{kind}list0{number}.txt"] = lists.get(f"{kind}list0{number}.txt", "")
            lists[f"{kind}list0{number}.txt"] += f"{video}.avi\n"
        for place in (f"ucf101/{part}/{video}/1.jpg", f"rareact/test/{i}.jpg"):
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place).write_bytes(tars.picture(i))
    (tmp_path / "ucf101" / "ucfTrainTestlist").mkdir()
    for name, content in lists.items():
        (tmp_path / "ucf101" / "ucfTrainTestlist" / name).write_text(content)
    rows = [f"{i},v{i // 3},{i % 2},cut,{('egg', 'phone')[i % 2]},{i % 5}" for i in range(32)]
    head = "id,video_id,class_id,verb,noun,annotation"
    (tmp_path / "rareact" / "rareact.csv").write_text("\n".join([head, *rows]))
    (tmp_path / "s.py").write_text(
        "import dataclasses\n"
        "from clipjax.evals import suites\n"
        "def sized(entry, n, metric, **facts):\n"
        "    size = {'paper': suites.Expected(n, metric)}\n"
        "    return dataclasses.replace(entry, protocols=size, **facts)\n"
        "def get_suite():\n"
        "    ucf101 = suites.get('ucf101', run=('action', 'linear_probe'))\n"
        "    return suites.Suite('mine', (\n"
        "        sized(ucf101, 8, 'top1_accuracy', classes=2),\n"
        "        sized(suites.get('rareact'), 32, 'frame_averaged_mwap')),\n"
        "        suites.find('paper_zero_shot').run)\n"
    )
    names = '{"names": {"cut egg": "egg", "cut phone": "phone"}, "templates": ["cut {}"]}'
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "rareact.json").write_text(names)
    options = {"data": str(tmp_path), "output": str(tmp_path / "out"), "compare": "ViT-L/14@336px"}
    options["prompts"], suite = str(tmp_path / "prompts"), str(tmp_path / "s.py")
    assert evaluate.run("", weights=str(trained), suite=suite, **options) == exits.DONE
    made = record(tmp_path / "out", "ucf101")["measurements"]
    assert made["action"]["details"] == {"videos": 32, "frames": 32, "splits": 3}
    assert made["linear_probe"]["details"]["folds"] == 3
    found = record(tmp_path / "out", "rareact")["measurements"]["rare_actions"]["figures"]
    assert set(found) == {f"{p}{m}" for p in ("", "frame_averaged_") for m in ("mwap", "mwsap")}
    assert found["mwap"]["value"] == found["frame_averaged_mwap"]["value"]  # one frame each
    table = (tmp_path / "out" / "mine" / "summary.md").read_text()
    assert "| RareAct" in table and "| 40.70 |" in table
    assert evaluate.run("", weights=str(trained), suite=suite, **options) == exits.DONE
    assert "0 to measure, 2 measured before" in capsys.readouterr().out


def test_what_is_measured_is_not_measured_again(trained, sets, tmp_path, monkeypatch, capsys):
    file, out = suite_file(tmp_path / "s.py", sets), tmp_path / "out"
    calls = []

    def counted(measure):
        def call(evaluated):
            calls.append(evaluated.data.entry.id)
            return measure(evaluated)

        return call

    for module in (zero_shot, retrieval):
        known = module.PROTOCOL
        made = dataclasses.replace(known, measure=counted(known.measure))
        monkeypatch.setattr(module, "PROTOCOL", made)

    def run(**options):
        calls.clear()
        evaluate.run("", weights=str(trained), suite=file, output=str(out), **options)
        return list(calls)

    assert run() == ["one", "texts", "many"]
    before = {p.name: p.read_bytes() for p in (out / "mine").glob("*.json")}
    assert run() == [] and "3 measured before" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in (out / "mine").glob("*.json")} == before
    (out / "mine" / "texts.json").write_text("{")  # as a full disk may leave it
    assert run() == ["texts"]
    prompts = tmp_path / "prompts" / "one"
    prompts.mkdir(parents=True)
    (prompts / "classnames.txt").write_text("fox\npig\nbear\n")
    assert run(prompts=str(tmp_path / "prompts")) == ["one"]
    assert record(out, "one")["measurements"]["zero_shot"]["details"]["prompts"]["origin"].endswith(
        "prompts/one"
    )
    assert run(prompts=str(tmp_path / "prompts"), only=["zero_shot"], force=True) == ["one", "many"]


def test_sets_that_cannot_be_measured_do_not_stop_the_others(trained, sets, tmp_path, capsys):
    more = (
        f"        suites.own('wrong', path='{sets}/one', n=20),\n"
        "        suites.get('pets'),\n"
        "        suites.own('gone', path='nowhere'),\n"
        f"        suites.own('probed', path='{sets}/one', train_path='off', run='linear_probe'),\n"
    )
    file, out = suite_file(tmp_path / "s.py", sets, more=more), tmp_path / "out"
    with pytest.raises(DataError, match=r"3 of 7 sets cannot be used, first wrong: .*21 images"):
        evaluate.run("", weights=str(trained), suite=file, output=str(out), data=str(tmp_path))
    told = capsys.readouterr().out
    assert "3 to measure, 0 measured before, 1 missing, 3 that cannot be used" in told
    assert "Oxford-IIIT Pet is missing: copy huggingface.co" in told
    failed = {name: record(out, name) for name in ("wrong", "gone", "probed")}
    assert {each["status"] for each in failed.values()} == {"failed"}
    assert "nowhere: nothing is there" in failed["gone"]["message"]
    assert 'mend train_path of suites.own("probed")' in failed["probed"]["message"]
    assert record(out, "pets")["status"] == "missing"
    assert record(out, "one")["measurements"]
    summary = json.loads((out / "mine" / "summary.json").read_text())
    assert set(summary["missing"]) == {"pets"} and set(summary["failed"]) == set(failed)
    assert (
        summary["averages"]["zero_shot"]["sets"] == 2
        and summary["averages"]["zero_shot"]["of"] == 7
    )
    page = (out / "mine" / "report.html").read_text()
    assert "Missing data sets" in page and "djghosh/wds_vtab-pets_test" in page


def test_a_damaged_image_fails_its_set_only(trained, sets, tmp_path, capsys):
    samples = [{"jpg": tars.picture(i), "cls": b"%d" % (i % 3)} for i in range(6)]
    samples[3]["jpg"] = b"no image"
    webdatasets.write(tmp_path / "bad", samples, names=NAMES, templates=["{c}"])
    more = f"        suites.own('bad', path='{tmp_path}/bad'),\n"
    file, out = suite_file(tmp_path / "s.py", sets, more=more), tmp_path / "out"
    with pytest.raises(DataError, match=r"first bad: .*record 1.tar/s0000003 is unusable"):
        evaluate.run("", weights=str(trained), suite=file, output=str(out))
    assert record(out, "many")["measurements"]
    capsys.readouterr()


def test_nothing_at_all_is_an_error(trained, tmp_path, capsys):
    with pytest.raises(DataError, match=r"all 2 sets are missing, first Flickr: copy hugg"):
        evaluate.run("", weights=str(trained), suite="retrieval", output=str(tmp_path))
    capsys.readouterr()


def test_permuted_classes_are_suspected(trained, sets, tmp_path, monkeypatch, capsys):
    """A model that reads labels, and names in another order."""
    monkeypatch.setattr(
        EvaluatedSet,
        "image_embed",
        property(lambda on: np.eye(16, dtype=np.float32)[on.data.labels]),
    )
    vectors = np.eye(16, dtype=np.float32)[[1, 0, 2]]
    made = type("Made", (), {"ensemble": vectors, "single": vectors})
    monkeypatch.setattr(EvaluatedSet, "classifier", property(lambda on: made))
    file, out = suite_file(tmp_path / "s.py", sets), tmp_path / "out"
    suite = suites.find(file)
    suite = suites.Suite("mine", suite.entries[:1])
    run_suites.on_weights(str(trained), suite, output=str(out))
    (warning,) = record(out, "one")["measurements"]["zero_shot"]["warnings"]
    assert warning.startswith("class order? 2 classes are mostly taken for one other class each")
    assert "accuracy would be 100.0%, not 33.3%" in warning
    assert warning in capsys.readouterr().out
    assert "class order?" in (out / "mine" / "report.html").read_text()


def test_a_running_job_is_followed(trained, sets, tmp_path, capsys):
    """Checkpoints come one after the other; each is measured once, until the run's last."""
    workdir = tmp_path / "run"
    (workdir / "checkpoints").mkdir(parents=True)
    shutil.copy(trained / "config.json", workdir)
    file = suites.find(suite_file(tmp_path / "s.py", sets))

    def train():
        for step in (2, 4):
            time.sleep(0.5)
            shutil.copytree(trained / "checkpoints" / str(step), workdir / "step")
            (workdir / "step").rename(workdir / "checkpoints" / str(step))

    job = threading.Thread(target=train)
    job.start()
    assert run_suites.watch(str(workdir), file, patience=0.1) == [2, 4]
    job.join()
    told = capsys.readouterr().out
    assert told.count("3 to measure, 0 measured before") == 2
    place = workdir / "evaluations" / "mine"
    assert {p.name for p in place.iterdir()} == {"step_2", "step_4"}
    assert (place / "step_4" / "figures" / "scaling.png").exists()
    assert run_suites.watch(str(workdir), file, patience=0.1) == [2, 4]
    assert "3 to measure" not in capsys.readouterr().out
    (place / "step_2").rename(place / "step_2_newest")  # of other weights: no line through both
    (place / "step_4" / "figures" / "scaling.png").unlink()
    report.write(str(place / "step_4"))
    assert not (place / "step_4" / "figures" / "scaling.png").exists()
    assert evaluate.run(str(workdir), suite=str(tmp_path / "s.py"), average=False) == exits.DONE
    assert (place / "step_4_newest" / "figures" / "scaling.png").exists()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"weights": "x"}, r"--weights=x: add what to run, --suite=NAME \(paper27, "),
        ({"suite": "paper27"}, "either --weights=PATH or --workdir=RUN"),
        ({"suite": "paper27", "weights": "x", "workdir": "y"}, "either --weights=PATH or"),
        ({"suite": "paper27", "weights": "x", "watch": True}, "--watch: follows the run"),
        ({"suite": "paper27", "workdir": "nowhere"}, "no such folder"),
        ({"suite": "paper", "workdir": "."}, "is unknown"),
        (
            {"suite": "paper27", "weights": "x", "only": ["zeroshot"]},
            r'--protocols: "zeroshot" .*did you mean "zero_shot"',
        ),
    ],
)
def test_mistakes_are_one_line_each(asked, told):
    with pytest.raises(ConfigError, match=told) as caught:
        evaluate.run(asked.pop("workdir", ""), **asked)
    assert "\n" not in str(caught.value)


def program(*arguments, **environment):
    import os

    return subprocess.Popen(
        [sys.executable, "-m", "clipjax.evaluate", *arguments],
        cwd=processes.ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.slow
def test_killed_and_started_again(trained, sets, tmp_path):
    """No set is computed twice, and the summary is that of an evaluation that was not killed."""
    more = "".join(f"        suites.own('again{i}', path='{sets}/one'),\n" for i in range(5))
    file = suite_file(tmp_path / "s.py", sets, more=more)
    common = [f"--weights={trained}", f"--suite={file}"]
    straight = program(*common, f"--output={tmp_path}/straight")
    assert straight.wait() == 0
    killed = program(*common, f"--output={tmp_path}/out")
    place = tmp_path / "out" / "mine"
    while not (place / "texts.json").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    before = {p.name: p.read_bytes() for p in place.glob("*.json")}
    assert 2 <= len(before) < 8 and "summary.json" not in before
    again = program(*common, f"--output={tmp_path}/out")
    told, _ = again.communicate()
    assert again.returncode == 0 and f"{len(before)} measured before" in told
    for name, content in before.items():
        assert (place / name).read_bytes() == content
    for name in ("summary.json", "summary.csv", "summary.md"):
        assert (place / name).read_bytes() == (tmp_path / "straight" / "mine" / name).read_bytes()


@pytest.mark.multihost
def test_two_processes_measure_what_one_does(trained, sets, tmp_path):
    """21 and 9 images in batches over 2 × 2 devices: ragged ends on both processes."""
    import socket

    file = suite_file(tmp_path / "s.py", sets)
    common = [f"--weights={trained}", f"--suite={file}"]
    assert program(*common, f"--output={tmp_path}/one").wait() == 0
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    pair = [
        program(
            *common,
            f"--output={tmp_path}/two",
            XLA_FLAGS=xla_flags(2),
            CLIPJAX_COORDINATOR=f"127.0.0.1:{port}",
            CLIPJAX_NUM_PROCESSES="2",
            CLIPJAX_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]
    assert [process.wait(timeout=processes.TIMEOUT) for process in pair] == [0, 0]
    one, two = (
        json.loads((tmp_path / name / "mine" / "summary.json").read_text())["rows"]
        for name in ("one", "two")
    )
    assert len(one) == 3
    for a, b in zip(one, two, strict=True):
        assert a["figures"] == b["figures"], a["set"]


def test_errors_have_exit_codes(trained, tmp_path):
    with pytest.raises(CleanExit) as caught:
        evaluate.run("", weights=str(tmp_path), suite="paper27")
    assert caught.value.code == exits.BAD_CONFIG
    assert config.defaults().evals is not None
