"""The figures of a suite's report: bars of the sets, and what each protocol has to show.

Rows are those of summary.json; details come out of the sets' records, and what is told of each
image out of `arrays/`.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from clipjax.common import files
from clipjax.common.counts import counted
from clipjax.evals.metrics import Estimate
from clipjax.evals.protocols import geolocation, robustness
from clipjax.evals.suites import results
from clipjax.evals.suites.results import Measurement
from clipjax.pictures.charts import confusion
from clipjax.pictures.charts import distances as distance_chart
from clipjax.pictures.charts import few_shot as few_shot_charts
from clipjax.pictures.charts import probe as probe_chart
from clipjax.pictures.charts import robustness as robustness_chart
from clipjax.pictures.charts import sets as set_charts

CONFUSIONS = 8  # sets whose confusions are shown, those with the most left to explain
SEARCHES = 4  # sets whose search of the penalty is shown

Drawn = tuple[str, Image.Image, str, str]  # file name, picture, title, description


class Measured(NamedTuple):
    """A set's name for people, and its measurements by protocol whose main figure is a number."""

    name: str
    by_protocol: dict[str, Measurement]


Sets = Mapping[str, Measured]  # by id


def draw(place: Any, content: Mapping[str, Any]) -> tuple[list[Drawn], list[str]]:
    """The figures, and a sentence for each kind of them that cannot be drawn.

    Args:
      place: folder of the results.
      content: of its summary.json.
    """
    rows = [row for row in content["rows"] if row["value"] is not None]
    sets = _measured(place, content)
    kinds: dict[str, Callable[[], Iterator[Drawn]]] = {
        "bars of the sets": lambda: _sets(rows, compare=content["compare"]),
        "prompt gain": lambda: _gains(rows),
        "scaling": lambda: _scaling(place, content),
        "zero-shot against the probe": lambda: _zero_shot_against_probe(sets),
        "few-shot probes": lambda: _few_shot(sets),
        "penalties": lambda: _searches(sets),
        "robustness": lambda: _robustness(sets),
        "places": lambda: _places(place, sets),
        "overlap": lambda: _overlap(place),
        "confusions": lambda: _confusions(place, rows, sets),
    }
    drawn: list[Drawn] = []
    left_out = []
    for kind, draw in kinds.items():
        try:
            drawn += draw()
        except ImportError:
            continue  # without matplotlib
        except Exception as error:  # the tables stand without it
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            left_out.append(f"The figure of {kind} is left out: {reason}.")
    return drawn, left_out


def _sets(rows: Sequence[Mapping[str, Any]], *, compare: str) -> Iterator[Drawn]:
    """Draw each protocol, and it against what others published; one set alone is in the table."""
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        own = sorted((r for r in rows if r["protocol"] == protocol), key=lambda r: -r["value"])
        words = protocol.replace("_", " ")
        if len(own) > 1:
            yield (
                f"{protocol}_bars",
                set_charts.bars(own, title=f"{words}: every set's main metric", published=compare),
                f"{words} by set",
                "Each bar is a set's main metric with its 95 % interval. Diamonds and discs are"
                " what others published for the same size of the set; the red mark is guessing.",
            )
        for source in dict.fromkeys(s for row in own for s in row["published"]):
            points = [
                {**row, "x": row["published"][source], "y": row["value"]}
                for row in own
                if source in row["published"]
            ]
            if len(points) < 2:
                continue
            yield (
                f"{protocol}_against_{source}",
                set_charts.scatter(
                    points,
                    title=f"{words}: ours against {compare}, {source}",
                    xlabel=f"{compare}, {source}",
                    ylabel="ours",
                ),
                f"ours against {source}",
                "On the dotted line both are equal; above it ours is better. Grey bars are 95 %"
                " intervals.",
            )


def _gains(rows: Sequence[Mapping[str, Any]]) -> Iterator[Drawn]:
    """What all prompts gain over one."""
    gained = [
        {**row, "value": row["value"] - row["single_prompt"]}
        for row in rows
        if row["single_prompt"] is not None
    ]
    if len(gained) > 1 and any(row["value"] for row in gained):  # no gain at all: one prompt each
        yield (
            "prompt_gain",
            set_charts.gains(
                gained,
                title="what all prompts together gain over one",
                xlabel="points of the main metric (the paper's figure 4)",
            ),
            "prompt gain",
            "The main metric with all templates and names averaged in embedding space, minus that"
            " with each class's first name in the first template.",
        )


def _scaling(place: Any, content: Mapping[str, Any]) -> Iterator[Drawn]:
    """The main metrics over the run's checkpoints."""
    if lines := _history(place, content):
        yield (
            "scaling",
            set_charts.scaling(lines, title="main metrics as training goes on"),
            "scaling",
            "Each evaluated checkpoint of this run up to this one, with 95 % intervals.",
        )


def _history(place: Any, content: Mapping[str, Any]) -> dict[str, list[tuple[float, Any]]]:
    """Set's name → its rows at this and earlier steps, from the folders beside this one: of the
    same weights, averaged or newest (`results.step_name`)."""
    own = results.parse_step_name(place.name)
    if own is None:
        return {}
    last, average = own
    beside = {}
    for file in place.parent.glob("step_*/summary.json"):
        step, same = results.parse_step_name(file.parent.name) or (last + 1, None)
        if same == average and step <= last:
            beside[step] = file
    lines: dict[str, list[tuple[float, Any]]] = {}
    for step, file in sorted(beside.items()):
        other = json.loads(file.read_text())
        for row in other["rows"]:
            if row["value"] is not None and math.isfinite(row["value"]):
                name = f"{row['name']}, {row['protocol'].replace('_', ' ')}"
                seen = other["weights"].get("examples_seen", step)
                lines.setdefault(name, []).append((seen, row))
    return {name: points for name, points in lines.items() if len(points) > 1}


def _overlap(place: Any) -> Iterator[Drawn]:
    """What `clipjax.overlap` has drawn of these results."""
    file = place / "overlap" / "overlap.png"
    if file.exists():
        with file.open("rb") as opened:
            picture = Image.open(opened).convert("RGB")
        yield (
            "overlap",
            picture,
            "overlap of evaluation and training images",
            "Left: evaluation images whose copies are in the training data, by how they were found."
            " Middle and right: accuracy on those less that on the others, and all images' less the"
            " others', with 99.5 % intervals (the paper's figure 17).",
        )


def _confusions(place: Any, rows: list[Any], sets: Sets) -> Iterator[Drawn]:
    """Draw the confusions of the sets with the lowest accuracy, the worst classes in words."""
    ranked = sorted((r for r in rows if r["protocol"] == "zero_shot"), key=lambda r: r["value"])
    shown = 0
    for row in ranked:
        file = place / "arrays" / f"{row['set']}.zero_shot.npz"
        if shown == CONFUSIONS or not file.exists():
            continue
        arrays = files.read_arrays(file)
        label, chosen, names = (arrays[key] for key in ("label", "chosen", "names"))
        counts = np.zeros((len(names), len(names)), np.int64)
        np.add.at(counts, (label, chosen), 1)
        shown += 1
        yield (
            f"confusion_{row['set']}",
            confusion.draw(counts, names=[str(name) for name in names], title=row["name"]),
            f"{row['name']}: which classes are taken for which",
            _worst_classes(sets, row["set"]),
        )


def _worst_classes(sets: Sets, key: str) -> str:
    """A set's worst classes in words; "" where they are not known."""
    measurement = sets[key].by_protocol.get("zero_shot") if key in sets else None
    if not measurement or not measurement.details.get("worst_classes"):
        return ""
    worst = [
        f"{each['class']} {each['right']}/{each['n']}"
        + (
            f" (taken for {each['taken_for']} {counted(each['taken'], 'time')})"
            if each["taken"]
            else ""
        )
        for each in measurement.details["worst_classes"]
    ]
    return f"Worst classes: {'; '.join(worst)}."


def _measured(place: Any, content: Mapping[str, Any]) -> dict[str, Measured]:
    """The sets of the summary by id, out of their records."""
    sets = {}
    for name in dict.fromkeys(row["set"] for row in content["rows"]):
        if record := results.read(place / f"{name}.json"):
            kept = {p: m for p, m in record.measurements.items() if math.isfinite(m.main.value)}
            sets[name] = Measured(record.name, kept)
    return sets


def _zero_shot_against_probe(sets: Sets) -> Iterator[Drawn]:
    rows = []
    for name, by_protocol in sets.values():
        if "zero_shot" in by_protocol and "linear_probe" in by_protocol:
            zero, probe = by_protocol["zero_shot"].main, by_protocol["linear_probe"].main
            ends = {"low": zero.low, "high": zero.high}
            rows.append({"name": name, "x": probe.value, "y": zero.value, **ends})
    if len(rows) < 2:  # one alone is in the table
        return
    yield (
        "zero_shot_against_probe",
        set_charts.scatter(
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
        set_charts.gains(
            [{**row, "value": row["y"] - row["x"]} for row in rows],
            title="zero-shot, less the linear probe of the same features",
            xlabel="points of the main metric",
        ),
        "zero-shot less the linear probe",
        "After the paper's figure 5, which compares with a probe of a ResNet-50's features.",
    )


def _few_shot(sets: Sets) -> Iterator[Drawn]:
    panels, bars = [], []
    for name, by_protocol in sets.values():
        if "few_shot" not in by_protocol:
            continue
        few, probe = by_protocol["few_shot"], by_protocol.get("linear_probe")
        metric = few.metric.split("_shot_")[1]
        counted = {key.split("_shot_")[0]: estimate for key, estimate in few.figures.items()}
        points = {
            int(count): _value(estimate)
            for count, estimate in counted.items()
            if count.isdigit() and math.isfinite(estimate.value)
        }
        crossing = few.details["crossover"]
        whole = None
        if probe and probe.metric == metric:
            images = probe.details["trained"] + probe.details["validated"]
            whole = (images / max(few.details["classes"], 1), _value(probe.main))
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


def _searches(sets: Sets) -> Iterator[Drawn]:
    shown = [key for key, (_, by_protocol) in sets.items() if "linear_probe" in by_protocol]
    for key in shown[:SEARCHES]:
        name, probe = sets[key].name, sets[key].by_protocol["linear_probe"]
        tried = probe.details["searched"].items()
        searched = {float(p): tuple(v) for p, v in tried if v[0] is not None}
        if not searched:
            continue
        penalty = probe.details["penalty"][0]
        chosen = min(searched, key=lambda p, penalty=penalty: abs(np.log(p / penalty)))
        rows = f"{probe.details['validated']:,} validation rows"
        yield (
            f"penalty_{key}",
            probe_chart.draw(
                searched,
                chosen=chosen,
                title=f"{name}: penalties tried on {rows}",
                ylabel=probe.metric.replace("_", " "),
            ),
            f"{name}: the probe's penalty",
            "Seven penalties first, then half the step around the best (paper, appendix A.3).",
        )


def _robustness(sets: Sets) -> Iterator[Drawn]:
    if "imagenet" not in sets or "zero_shot" not in sets["imagenet"].by_protocol:
        return
    base = sets["imagenet"].by_protocol
    panels, gains = [], []
    published = robustness.published()["paper"]
    for shift, (parts, reference) in robustness.SHIFTS.items():
        name, by_protocol = sets.get(shift, Measured("", {}))
        after = by_protocol.get("pm_k") or by_protocol.get("zero_shot")
        before = _before(base, shift, reference)
        points = robustness.standard_points(shift)
        if after is None or before is None or not math.isfinite(before.value):
            continue
        line = robustness.fit_line(*np.array(list(points.values())).T)
        ends = [before.value, *(point[0] for point in points.values())]
        others = {}
        if reference == "imagenet":
            others["published (Radford et al., table 16)"] = {
                model: (each["imagenet"], float(np.mean([each[part] for part in parts])))
                for model, each in published.items()
            }
        panels.append(
            robustness_chart.Panel(
                name,
                "ImageNet" if reference == "imagenet" else "ImageNet, on its classes",
                name,
                points,
                line.drawn(min(ends), max(ends)),
                others,
                {"ours, zero-shot": (_value(before), _value(after.main))},
            )
        )
        gains.append(f"{name} {robustness.effective(before, after.main, line).value:+.1%}")
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


def _places(place: Any, sets: Sets) -> Iterator[Drawn]:
    for key, (name, by_protocol) in sets.items():
        file = place / "arrays" / f"{key}.geolocation.npz"
        if "geolocation" not in by_protocol or not file.exists():
            continue
        measurement = by_protocol["geolocation"]
        distances = files.read_arrays(file)["distance_km"]
        shares = {
            float(k.removeprefix("within_").removesuffix("_km")): _value(estimate)
            for k, estimate in measurement.figures.items()
            if math.isfinite(estimate.value)
        }
        title = f"{name}: nearest of {measurement.details['references']:,} references"
        yield (
            f"places_{key}",
            distance_chart.draw(
                distances, shares=shares, published=geolocation.IM2GPS, title=title
            ),
            f"{name}: how far off",
            "Share of photographs placed within each distance. Published: on IM2GPS, with"
            " a million references and more.",
        )


def _value(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high
