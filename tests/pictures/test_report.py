"""The report's folder and page: whole, self-contained, escaped, and never the end of a run."""

import html.parser
import os
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from clipjax.data import tokenizers
from clipjax.data.examples import TrainExamples
from clipjax.data.sources.scenes import Scenes
from clipjax.data.tokenizers.clip import ClipTokenizer
from clipjax.data.tokenizers.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from clipjax.evals import classification
from clipjax.evals.evaluator import Evaluator
from clipjax.pictures import canvas, table
from clipjax.pictures.report import Report
from clipjax.pictures.sheets import retrieved
from clipjax.run import report as run_report
from tests.pictures import synthetic
from tests.weights import small, vocabulary

NASTY = "<script>alert(\"x\")</script> & 'co'"


class Page(html.parser.HTMLParser):
    """Checks nesting, and collects tags and texts."""

    VOID = ("meta", "link", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def make(tmp_path, said, **changes):
    arguments = {
        "title": NASTY,
        "log": synthetic.write_log(tmp_path / "metrics.jsonl"),
        "chance": {"eval/held_out/text_to_image_recall_at_1": 0.001},
        "total_steps": 400,
        "attribution": f"Designed by {NASTY} (https://example.org)",
        "say": said.append,
    }
    return Report(tmp_path / "report", **(arguments | changes))


def sheet(**changes):
    found = {
        "queries": [NASTY, "a pizza"],
        "images": [[synthetic.image(5 * q + k) for k in range(5)] for q in range(2)],
        "scores": np.zeros((2, 5)),
        "right": np.eye(2, 5, dtype=bool),
    }
    return found | changes


def fill(report):
    report.samples(
        [synthetic.image(0), synthetic.image(1)],
        captions=[NASTY, "b"],
        tokens=[["a"], ["b"]],
        first=16,
    )
    report.evaluation(
        200,
        sheets={"held/out": sheet()},
        confusions={"objects": {"counts": np.eye(3, dtype=int), "names": [NASTY, "b", "c"]}},
    )


def test_page_is_self_contained_well_formed_and_escaped(tmp_path):
    said = []
    report = make(tmp_path, said)
    fill(report)
    assert said == []
    files = {
        "index.html",
        "samples.png",
        "curves.png",
        "held_out_sheet.png",
        "objects_confusion.png",
    }
    assert set(os.listdir(report.folder)) == files
    assert report.index == str(tmp_path / "report" / "index.html")
    text = (tmp_path / "report" / "index.html").read_text()
    page = Page(text)
    assert not page.all("script")
    assert len(page.all("img")) == 4
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "url(" not in text and "@import" not in text
    texts = "".join(page.texts)
    assert page.texts.count(NASTY) == 2  # title and heading
    assert f"Artwork: Designed by {NASTY} (https://example.org)" in texts
    assert "step 200 of 400 · 1,600 examples seen" in texts
    assert "held_out: text to image recall at 1" in texts
    assert "50.0%" in texts and "0.10%" in texts and "× 500" in texts
    for file, credited in (("samples", True), ("held_out_sheet", True), ("curves", False)):
        written = canvas.png_texts((tmp_path / "report" / f"{file}.png").read_bytes())
        assert ("Copyright" in written) == credited


def test_page_loads_itself_again_until_the_run_is_complete(tmp_path):
    report = make(tmp_path, [])

    def refreshes():
        text = (tmp_path / "report" / "index.html").read_text()
        return [tag["content"] for tag in Page(text).all("meta") if tag.get("http-equiv")], text

    report.samples([synthetic.image(0)], captions=["a"], tokens=[["a"]])
    assert refreshes()[0] == ["60"]
    report.finish(300, complete=False)
    assert refreshes()[0] == ["60"] and ">stopped<" in refreshes()[1]
    report.finish(400)
    assert refreshes()[0] == [] and ">complete<" in refreshes()[1]


def test_a_resumed_run_keeps_the_pictures_it_has(tmp_path):
    fill(make(tmp_path, []))
    again = make(tmp_path, [])
    assert set(again.pictures) == {
        "samples.png",
        "curves.png",
        "held_out_sheet.png",
        "objects_confusion.png",
    }
    again.evaluation(400)
    page = Page((tmp_path / "report" / "index.html").read_text())
    captions = [tag["alt"] for tag in page.all("img")]
    assert captions[0] == "held/out: images found by text, step 200"
    assert captions[1] == f"{NASTY}, step 400 of 400"


def test_curves_are_drawn_between_evaluations_at_most_once_a_minute(tmp_path):
    report = make(tmp_path, [])
    report.progress(10)
    assert not os.path.exists(report.folder)
    report.drawn_at -= 61
    report.progress(20)
    assert "curves.png" in os.listdir(report.folder)
    before = report.drawn_at
    report.progress(30)
    assert report.drawn_at == before


def test_errors_are_told_once_and_end_nothing(tmp_path):
    said = []
    report = make(tmp_path, said)
    for _ in range(2):
        report.evaluation(200, sheets={"bad": {"queries": ["a\nb"]}, "held_out": sheet()})
    assert len(said) == 1 and said[0].startswith("report: no sheet (TypeError: ")
    assert "\n" not in said[0]
    assert "held_out_sheet.png" in os.listdir(report.folder)

    (tmp_path / "file").write_text("")
    said.clear()
    blocked = Report(tmp_path / "file" / "report", title="x", log=report.log, say=said.append)
    blocked.samples([synthetic.image(0)], captions=["a"], tokens=[["a"]])
    blocked.finish(200)
    assert said and all(line.startswith("report: no ") for line in said)
    assert blocked.attempt(lambda: 1 / 0, what="sum") is None


def test_without_matplotlib_only_the_curves_are_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = []
    report = make(tmp_path, said)
    fill(report)
    report.finish(200)
    assert len(said) == 1 and "pip install" in said[0]
    files = {"index.html", "samples.png", "held_out_sheet.png", "objects_confusion.png"}
    assert set(os.listdir(report.folder)) == files


def test_table_for_the_terminal(tmp_path):
    lines = make(tmp_path, []).table().splitlines()
    assert lines[0].split() == ["now", "guessing", "step"]
    words = "held_out: text to image recall at 1 50.0% 0.10% × 500 200"
    assert lines[1].split() == words.split(" ")
    assert len({len(line) for line in lines}) == 1
    assert make(tmp_path, [], log=str(tmp_path / "none.jsonl")).table() == ""


def test_rows_of_strange_values():
    rows = table.rows({"eval/a/top1_accuracy": ([1], [float("nan")]), "eval/a/loss": ([1], [2.5])})
    assert [(row.show(row.value), row.show(row.chance), row.times) for row in rows] == [
        ("nan", "–", ""),
        ("2.5", "–", ""),
    ]


@pytest.fixture(scope="module")
def examples():
    source = Scenes(length=500)
    captions = [source.caption(i) for i in range(500)]
    model = train_sentencepiece(captions, vocab_size=384)
    tokenizer = SentencePieceTokenizer(model, context_length=18)
    return TrainExamples(source, tokenizer=tokenizer, image_size=64, seed=3)


def test_samples_are_what_training_sees(examples):
    found = run_report.training_samples(examples, start=7, count=5)
    assert (found["first"], len(found["images"])) == (7, 5)
    for k in range(5):
        example = examples[7 + k]
        np.testing.assert_array_equal(found["images"][k], example["image"])
        assert found["truncated"][k] == example["truncated"]
        ids, _ = examples.tokenizer.encode([found["captions"][k]])
        np.testing.assert_array_equal(ids[0], example["text"])
        used = int(np.argmax(example["text"])) - 1
        assert len(found["tokens"][k]) == used
        whole = found["captions"][k].replace(" ", "")
        assert whole.startswith("".join(found["tokens"][k]))
        assert found["truncated"][k] or whole == "".join(found["tokens"][k])


@pytest.mark.parametrize("kind", ["clip", "siglip", "gemma"])
def test_samples_end_where_each_vocabulary_ends_a_text(kind, tmp_path):
    """The largest ids are start and end in ours and CLIP's alone; SigLIP's have an end, id 1."""
    files = {"siglip": vocabulary.t5_like, "gemma": vocabulary.gemma_like}
    if kind == "clip":
        tokenizer = ClipTokenizer(small.MERGES, context_length=32)
    else:
        model = files[kind](tmp_path, vocab_size=320 if kind == "siglip" else 400).read_bytes()
        tokenizer = tokenizers.KINDS[kind](model, context_length=32)
    (ids,), _ = tokenizer.encode(["the cat on the dog"])
    decoded = run_report.decoded_tokens(ids, tokenizer=tokenizer)
    assert "".join(decoded).replace(" ", "") == "thecatonthedog"
    largest = tokenizer.vocab_size - 1 if kind != "clip" else tokenizer.start_id - 1
    last = np.array([largest - 1, largest, tokenizer.end_id, tokenizer.pad_id])
    assert len(run_report.decoded_tokens(last, tokenizer=tokenizer)) == 2


def test_sheet_of_a_retrieval_in_the_run(examples, tmp_path, capsys):
    embed = np.eye(12, dtype=np.float32)
    text_embed = np.roll(embed, 1, axis=1)
    text_embed[0] = embed[0]
    text_embed[11] = np.nan
    sheet = retrieved.sheet_arguments(
        [f"text {i}" for i in range(12)],
        text_image=np.arange(12),
        image_embed=embed,
        text_embed=text_embed,
        load=synthetic.image,
        queries=4,
    )
    assert sheet["queries"] == ["text 0", "text 3", "text 7", "text 11"]
    np.testing.assert_array_equal(sheet["right"][0], [True, False, False, False, False])
    np.testing.assert_array_equal(sheet["images"][1][0], synthetic.image(4))
    assert not sheet["right"][1, 0]
    ranks = [note.split()[5] for note in sheet["notes"]]
    assert ranks == ["1", "12", "12", "12"]  # ties and NaN count against the model

    evaluators = {"x": Evaluator(None, None, chance={"top1_accuracy": 0.5})}
    chance = run_report.chance_levels(evaluators, batch_size=256, loss="softmax_ring")
    assert chance["eval/x/top1_accuracy"] == 0.5
    assert chance["train/loss"] == pytest.approx(5.545, abs=1e-3)
    sigmoid = run_report.chance_levels(evaluators, batch_size=256, loss="sigmoid_ring")
    assert "train/loss" not in sigmoid

    said = []
    config = ConfigDict({"batch_size": 256, "loss": {"name": "softmax_gather"}})
    arguments = {
        "evaluators": evaluators,
        "config": config,
        "total_steps": 200,
        "source": examples.source,
        "say": said.append,
    }
    log = synthetic.write_log(tmp_path / "metrics.jsonl")
    listener = run_report.RunReport(str(tmp_path / "run") + "/", log=log, **arguments)
    report = listener.report
    assert report.chance == chance
    assert (report.title, "OpenMoji" in report.attribution) == ("run", True)
    result = classification.Result(("fox", "pig"), np.arange(2), np.arange(2), np.zeros(2, int))
    listener.samples(examples, start=0)
    listener.evaluation(100, details={"a": sheet, "b": result, "c": None})
    listener.step(110)
    listener.end(200, complete=True)
    assert said == []
    printed = capsys.readouterr().out
    assert "held_out: text to image recall at 1" in printed
    assert printed.endswith("run/report/index.html\n")
    files = {"samples.png", "a_sheet.png", "b_confusion.png", "curves.png", "index.html"}
    assert set(os.listdir(tmp_path / "run" / "report")) == files
