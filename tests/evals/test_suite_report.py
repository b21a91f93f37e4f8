"""A report is drawn from what there is: figures that are no numbers, one set, or nothing."""

import itertools
import json
import math
import pathlib
import types

import numpy as np
import pytest

from clipjax.evals import suites
from clipjax.evals.metrics import Estimate
from clipjax.evals.protocols import registry
from clipjax.evals.suites import figures, report, results, summary
from clipjax.evals.suites.results import Measurement, Record
from clipjax.pictures.charts import sets as set_charts

NAN = math.nan


def estimate(value, *, n=9):
    if value is None:
        return Estimate(NAN, 0.0, 1.0, 0)
    spread = 0.05 if math.isfinite(value) else 0.5
    middle = value if math.isfinite(value) else 0.5
    return Estimate(value, max(middle - spread, 0.0), min(middle + spread, 1.0), n)


def zero_shot(value):
    figures = {"top1_accuracy": value, "single_prompt_top1_accuracy": value}
    return Measurement("top1_accuracy", figures, {"chance": 0.1, "worst_classes": []})


def probe(value):
    searched = {f"{10.0**k}": [value.value, value.low, value.high] for k in (-2, 0, 2)}
    details = {"searched": searched, "penalty": [1.0], "validated": 4, "trained": 16}
    return Measurement("top1_accuracy", {"top1_accuracy": value}, details)


def few_shot(value):
    figures = {f"{k}_shot_top1_accuracy": value for k in (1, 2, 4)}
    crossing = {"value": 2.0, "low": 1.0, "high": None} if math.isfinite(value.value) else None
    return Measurement(
        "4_shot_top1_accuracy",
        {**figures, "zero_shot_top1_accuracy": value},
        {"crossover": crossing, "classes": 3},
    )


def retrieval(value):
    return Measurement("mean_recall_at_1", {"mean_recall_at_1": value}, {"chance": None})


def robustness(value):
    figures = dict.fromkeys(("top1_accuracy", "on_imagenet_a", "on_imagenet_r"), value)
    return Measurement("top1_accuracy", figures)


def geolocation(value):
    figures = {f"within_{km}_km": value for km in (1, 25, 200)}
    return Measurement("within_25_km", figures, {"references": 3})


MADE = {
    "zero_shot": zero_shot,
    "linear_probe": probe,
    "few_shot": few_shot,
    "retrieval": retrieval,
    "robustness": robustness,
    "geolocation": geolocation,
}
VALUES = {"one": 1.0, "nought": 0.0, "some": 0.4, "no number": NAN, "of nothing": None}


MODEL = types.SimpleNamespace(
    name="ViT-B/32", weights={"id": "w", "path": "p", "step": 4, "examples_seen": 64}
)


def write(folder, sets, *, compare="ViT-B/32"):
    """Records of {set: {protocol: value}} with their report; the page's text."""
    records = []
    entries = tuple(suites.entries()[name] for name in sets)
    for entry in entries:
        made = {p: MADE[p](estimate(value)) for p, value in sets[entry.id].items()}
        record = Record(
            entry.id,
            entry.name,
            data={"agrees_with": ["paper", "open_clip"]},
            preprocessing={"resize": "r", "crop": "c"},
            measurements=made,
        )
        records.append(record)
        results.write(record, folder / f"{entry.id}.json")
        distances = np.array([NAN, 0.5, 300.0])
        (folder / "arrays").mkdir(exist_ok=True)
        np.savez(folder / "arrays" / f"{entry.id}.geolocation.npz", distance_km=distances)
        np.savez(
            folder / "arrays" / f"{entry.id}.zero_shot.npz",
            label=np.array([0, 1]), chosen=np.array([0, 0]), names=np.array(["猫", "b"]),
        )  # fmt: skip
    suite = suites.Suite("s", entries)
    summary.write(records, folder=folder, suite=suite, model=MODEL, compare=compare)
    return pathlib.Path(report.write(str(folder))).read_text()


SETS = ("imagenet", "imagenet_a", "pets", "cifar10")


@pytest.mark.parametrize(
    ("value", "count"), list(itertools.product(VALUES, (1, 3))), ids=lambda x: str(x)
)
def test_every_figure_of_every_value_and_number_of_sets(tmp_path, value, count):
    """All protocols at once: no figure is left out because it cannot be drawn."""
    text = write(tmp_path, {name: dict.fromkeys(MADE, VALUES[value]) for name in SETS[:count]})
    assert "is left out" not in text and ">nan<" not in text
    strict = (tmp_path / "summary.json").read_text()
    json.loads(strict, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    compared = {name for name in drawn if "against" in name or "less" in name or "gain" in name}
    if count == 1 or VALUES[value] is None or not math.isfinite(VALUES[value]):
        assert not compared and not any(name.endswith("bars") for name in drawn)
    else:
        assert {"zero_shot_against_probe", "zero_shot_bars"} <= drawn
        assert "prompt_gain" not in drawn  # one prompt is as good as all, in every set
    if VALUES[value] is not None and math.isfinite(VALUES[value]):
        assert {f"penalty_{SETS[0]}", "few_shot_curves", f"places_{SETS[0]}"} <= drawn


def test_numbers_among_sets_without_any(tmp_path):
    sets = dict(zip(SETS, [dict.fromkeys(MADE, v) for v in (0.5, NAN, None, 1.0)], strict=True))
    write(tmp_path, sets)
    content = json.loads((tmp_path / "summary.json").read_text())
    values = {row["set"]: row["value"] for row in content["rows"] if row["protocol"] == "zero_shot"}
    assert values == {"imagenet": 0.5, "imagenet_a": None, "pets": None, "cifar10": 1.0}
    assert content["averages"]["zero_shot"] == {"mean": 0.75, "sets": 2, "of": 4}
    assert "| nan" not in (tmp_path / "summary.md").read_text()
    assert "nan" not in (tmp_path / "summary.csv").read_text().lower()


def test_nothing_measured_is_a_page_too(tmp_path):
    assert "0 of 0 data sets measured." in write(tmp_path, {"pets": {}})


def test_a_figure_that_cannot_be_drawn_leaves_the_others(tmp_path, monkeypatch):
    def bars(*_, **__):
        raise ValueError("no room\nfor it")

    monkeypatch.setattr(set_charts, "bars", bars)
    text = write(tmp_path, {name: dict.fromkeys(MADE, 0.5) for name in SETS})
    assert "The figure of bars of the sets is left out: ValueError: no room for it." in text
    assert (tmp_path / "figures" / "zero_shot_against_probe.png").exists()


def test_the_gain_of_many_prompts_is_drawn_where_there_is_one(monkeypatch):
    monkeypatch.setattr(set_charts, "gains", lambda rows, **_: [row["value"] for row in rows])
    rows = [{"set": name, "value": 0.5, "single_prompt": 0.5} for name in SETS]
    assert list(figures._gains(rows)) == []
    rows[1]["single_prompt"] = 0.25
    ((name, drawn, *_),) = figures._gains(rows)
    assert name == "prompt_gain" and drawn == [0.0, 0.25, 0.0, 0.0]


def test_results_of_an_older_start_that_are_no_numbers_are_read(tmp_path):
    """NaN stood in summaries of earlier steps."""
    for step, value in ((2, NAN), (4, 0.5), (6, 0.75)):
        folder = tmp_path / f"step_{step}"
        folder.mkdir()
        write(folder, {"pets": {"zero_shot": value}})
    old = tmp_path / "step_2" / "summary.json"
    old.write_text(old.read_text().replace('"value": null', '"value": NaN'))
    report.write(str(tmp_path / "step_6"))
    assert (tmp_path / "step_6" / "figures" / "scaling.png").exists()
    assert "is left out" not in (tmp_path / "step_6" / "report.html").read_text()


def test_what_is_no_number_is_said_so():
    assert str(Estimate(NAN, 0.0, 1.0, 0)) == "no number (n = 0)"
    assert str(Estimate(0.5, 0.25, 0.75, 8)) == "50.00% (25.00% … 75.00%, n = 8)"


def test_every_protocol_with_a_metric_lists_its_names():
    """Names are those that the protocols measure."""
    by_kind = [names for facts in registry.FACTS.values() for names in facts.sets.values()]
    known = {metric for names in by_kind for metric in names}
    of_sets = {e.metric for entry in suites.entries().values() for e in entry.protocols.values()}
    assert of_sets <= known


@pytest.mark.parametrize(
    ("metric", "protocol", "kind", "classes", "told"),
    [
        ("roc_auc", "zero_shot", "classification", 3, "roc_auc needs two classes, and there are 3"),
        ("roc_auc", "linear_probe", "classification", 1, "needs two classes"),
        ("roc_auc", "zero_shot", "classification", 2, ""),
        ("top5_accuracy", "zero_shot", "classification", 5, "top5_accuracy needs six classes"),
        ("top5_accuracy", "zero_shot", "classification", 6, ""),
        (
            "mean_average_precision",
            "zero_shot",
            "classification",
            9,
            "is none of zero_shot on a cl",
        ),
        ("mean_average_precision", "linear_probe", "classification", 9, ""),
        ("mean_recall", "linear_probe", "classification", 9, "is none of linear_probe on a class"),
        ("macro_f1", "linear_probe", "classification", 9, ""),  # by its own first metric
        ("worst_group_top1_accuracy", "few_shot", "classification", 9, ""),
        ("top1_accuracy", "linear_probe", "multilabel", 9, ""),
        ("top1_accuracy", "retrieval", "retrieval", 0, "choose mean_recall_at_1, mean_recall, ima"),
        ("top1_accuracy", "robustness", "classification", 9, ""),  # has one metric only
    ],
)
def test_a_metric_fits_protocol_kind_and_classes(metric, protocol, kind, classes, told):
    settings = {"protocol": protocol, "kind": kind, "classes": classes, "where": "x"}
    if not told:
        registry.check_fits(metric, **settings)
        return
    with pytest.raises(Exception, match=told) as caught:
        registry.check_fits(metric, **settings)
    assert caught.value.code == 64


def test_probes_take_their_own_metric_where_the_sets_is_of_zero_shot_only():
    def of(metric, protocol, kind="classification"):
        return registry.metric_of(metric, protocol=protocol, kind=kind)

    assert of("macro_f1", "linear_probe") == of("macro_f1", "few_shot") == "top1_accuracy"
    assert of("macro_f1", "zero_shot") == "macro_f1"
    assert of("roc_auc", "linear_probe") == "roc_auc"
    assert of("top1_accuracy", "linear_probe", "multilabel") == "mean_average_precision"
    assert of("jaccard", "associations", "associations") == "jaccard"
