"""Figures of a suite's report beside the sets' bars: probes, few shots, robustness, places.

`report` calls it; rows are those of summary.json, details come out of the sets' records.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.evals.metrics import Estimate
from clipjax.evals.protocols import robustness
from clipjax.evals.suites import results
from clipjax.evals.suites.results import Measurement
from clipjax.pictures.charts import distances as distance_chart
from clipjax.pictures.charts import few_shot as few_shot_charts
from clipjax.pictures.charts import probe as probe_chart
from clipjax.pictures.charts import robustness as robustness_chart
from clipjax.pictures.charts import sets

SEARCHES = 4  # sets whose search of the penalty is shown
IM2GPS = {  # paper, table 17: share of 237 photographs within so many kilometres
    "CLIP (paper)": {1: 0.139, 25: 0.329, 200: 0.43, 750: 0.62, 2500: 0.793},
    "ISNs": {1: 0.169, 25: 0.43, 200: 0.519, 750: 0.667, 2500: 0.802},
    "PlaNet": {1: 0.084, 25: 0.245, 200: 0.376, 750: 0.536, 2500: 0.713},
}
Value = tuple[float, float, float]
Named = tuple[str, dict[str, Measurement]]  # a set's name, and what was measured by protocol


def records_of(place: Any, content: Mapping[str, Any]) -> dict[str, Named]:
    """Set → its name, and its measurements whose main figure is a number."""
    records = {}
    for name in dict.fromkeys(row["set"] for row in content["rows"]):
        if record := results.read(place / f"{name}.json"):
            kept = {p: m for p, m in record.measurements.items() if math.isfinite(m.main.value)}
            records[name] = (record.name, kept)
    return records


def zero_shot_against_probe(records: Mapping[str, Any]) -> Iterator[Any]:
    rows = []
    for name, made in records.values():
        if "zero_shot" in made and "linear_probe" in made:
            zero, probe = made["zero_shot"].main, made["linear_probe"].main
            rows.append(
                {
                    "name": name,
                    "x": probe.value,
                    "y": zero.value,
                    "low": zero.low,
                    "high": zero.high,
                }
            )
    if len(rows) < 2:  # one alone is in the table
        return
    yield (
        "zero_shot_against_probe",
        sets.scatter(
            rows,
            title="zero-shot against a linear probe of the same features",
            xlabel="linear probe",
            ylabel="zero-shot",
            fit=len(rows) > 2,
        ),
        "zero-shot against the linear probe",
        "The paper's figure 8: below the dotted line labelled images are worth more than names.",
    )
    yield (
        "zero_shot_less_probe",
        sets.gains(
            [{**row, "value": row["y"] - row["x"]} for row in rows],
            title="zero-shot, less the linear probe of the same features",
            xlabel="points of the main metric",
        ),
        "zero-shot less the linear probe",
        "After the paper's figure 5, which compares with a probe of a ResNet-50's features.",
    )


def few_shot(records: Mapping[str, Any]) -> Iterator[Any]:
    panels, bars = [], []
    for name, made in records.values():
        if "few_shot" not in made:
            continue
        few = made["few_shot"]
        metric = few.metric.split("_shot_")[1]
        points = {
            int(key.split("_shot_")[0]): _value(estimate)
            for key, estimate in few.figures.items()
            if key.split("_shot_")[0].isdigit() and math.isfinite(estimate.value)
        }
        crossing = few.details["crossover"]
        whole = None
        if "linear_probe" in made and (probe := made["linear_probe"]).metric == metric:
            each = (probe.details["trained"] + probe.details["validated"]) / max(
                few.details["classes"], 1
            )
            whole = (each, _value(probe.main))
        high = crossing and (np.inf if crossing["high"] is None else crossing["high"])
        zero_shot = few.figures[f"zero_shot_{metric}"]
        panels.append(
            few_shot_charts.Panel(
                name,
                points,
                _value(zero_shot) if math.isfinite(zero_shot.value) else None,
                whole,
                (crossing["value"], crossing["low"], high) if crossing else None,
            )
        )
        row = {"name": name, "value": None, "most": max(points)}
        bars.append({**row, **crossing, "high": high} if crossing else row)
    if panels:
        yield (
            "few_shot_curves",
            few_shot_charts.curves(
                panels, title="few-shot probes against zero-shot", ylabel="main metric"
            ),
            "few-shot probes",
            "Probes of 1 to 16 images of each class, means of three draws with intervals that hold"
            " the draw and the test images. The circle marks how many images names are worth.",
        )
        yield (
            "few_shot_crossover",
            few_shot_charts.crossovers(bars, title="how many images of each class a name is worth"),
            "data efficiency of zero-shot",
            "The paper's figure 7. Arrows: the interval has no end among the numbers tried.",
        )


def searches(records: Mapping[str, Any]) -> Iterator[Any]:
    shown = [
        (k, name, made["linear_probe"])
        for k, (name, made) in records.items()
        if "linear_probe" in made
    ]
    for key, name, made in shown[:SEARCHES]:
        tried = made.details["searched"].items()
        searched = {float(p): tuple(v) for p, v in tried if v[0] is not None}
        if not searched:
            continue
        chosen = min(searched, key=lambda p: abs(np.log(p / made.details["penalty"][0])))
        rows = f"{made.details['validated']:,} validation rows"
        yield (
            f"penalty_{key}",
            probe_chart.draw(
                searched,
                chosen=chosen,
                title=f"{name}: penalties tried on {rows}",
                ylabel=made.metric.replace("_", " "),
            ),
            f"{name}: the probe's penalty",
            "Seven penalties first, then half the step around the best (paper, appendix A.3).",
        )


def robustness_of(records: Mapping[str, Any]) -> Iterator[Any]:
    base = records.get("imagenet", ("", {}))[1]
    if "zero_shot" not in base:
        return
    panels, gains = [], []
    published = robustness.published()["paper"]
    for shift, (parts, reference) in robustness.SHIFTS.items():
        made = records.get(shift, ("", {}))[1]
        after = _main(made, ("pm_k", "zero_shot"))
        before = _before(base, shift, reference)
        points = robustness.standard_points(shift)
        if after is None or before is None or not math.isfinite(before.value):
            continue
        line = robustness.fit_line(*np.array(list(points.values())).T)
        x = np.array([p[0] for p in points.values()] + [before.value])
        ends = robustness.logit(np.array([x.min(), x.max()]))
        grid = robustness.share_of(np.linspace(ends[0], ends[1], 50))
        others = {}
        if reference == "imagenet":
            others["published (Radford et al., table 16)"] = {
                model: (each["imagenet"], float(np.mean([each[part] for part in parts])))
                for model, each in published.items()
            }
        panels.append(
            robustness_chart.Panel(
                records[shift][0],
                "ImageNet" if reference == "imagenet" else "ImageNet, on its classes",
                records[shift][0],
                points,
                (grid, line.expected(grid), *line.band(grid)),
                others,
                {"ours, zero-shot": (_value(before), _value(after))},
            )
        )
        gains.append(f"{records[shift][0]} {robustness.effective(before, after, line).value:+.1%}")
    if panels:
        yield (
            "robustness",
            robustness_chart.draw(
                panels, title="effective robustness", standard="trained on ImageNet alone"
            ),
            "robustness to natural shifts",
            "Logit axes. Arrows: accuracy above what nine models trained on ImageNet alone lead to"
            f" expect (Taori et al. 2020): {', '.join(gains)}.",
        )


def _before(base: Mapping[str, Measurement], shift: str, reference: str) -> Estimate | None:
    """ImageNet on the shift's classes."""
    if reference == "imagenet":
        return base["zero_shot"].figures.get("top1_accuracy")
    return base["robustness"].figures.get(f"on_{shift}") if "robustness" in base else None


def places(place: Any, records: Mapping[str, Any]) -> Iterator[Any]:
    for key, (name, made) in records.items():
        file = place / "arrays" / f"{key}.geolocation.npz"
        if "geolocation" not in made or not file.exists():
            continue
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            distances = arrays["distance_km"]
        shares = {
            float(k.removeprefix("within_").removesuffix("_km")): _value(estimate)
            for k, estimate in made["geolocation"].figures.items()
            if math.isfinite(estimate.value)
        }
        title = f"{name}: nearest of {made['geolocation'].details['references']:,} references"
        yield (
            f"places_{key}",
            distance_chart.draw(distances, shares=shares, published=IM2GPS, title=title),
            f"{name}: how far off",
            "Share of photographs placed within each distance. Published: on IM2GPS, with"
            " a million references and more.",
        )


def _main(made: Mapping[str, Measurement], protocols: Sequence[str]) -> Estimate | None:
    return next((made[p].main for p in protocols if p in made), None)


def _value(estimate: Estimate) -> Value:
    return estimate.value, estimate.low, estimate.high
