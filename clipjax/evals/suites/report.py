"""The report of a suite's results: figures as PNG files, and report.html with all of them.

`evaluate_suite` writes it after each suite, and the overlap program again with its own figure, from
the files that they left: nothing is measured here.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from clipjax.common import files
from clipjax.evals.suites import report_probes, results
from clipjax.pictures import canvas, html, suite_page
from clipjax.pictures.charts import confusion
from clipjax.pictures.charts import sets as set_charts

CONFUSIONS = 8  # sets whose confusions are shown, those with the most left to explain

Drawn = tuple[str, Image.Image, str, str]  # file name, picture, title, description


def write(folder: str) -> str:
    """Write FOLDER/report.html and its figures; returns the page's path.

    Without matplotlib the page has its tables only. A figure that cannot be drawn is left out, and
    the page says so.
    """
    place = epath.Path(folder)
    content = json.loads((place / "summary.json").read_text())
    drawn, left_out = _drawn(place, content)
    pictures = []
    for name, picture, title, description in drawn:
        data = canvas.png(picture, title=title, description=description)
        files.write(place / "figures" / f"{name}.png", data)
        pictures.append(html.Picture(title, description, data))
    page = suite_page.page(
        content,
        facts=_facts(place, content),
        pictures=pictures,
        intro=[*_intro(content), *left_out],
    )
    file = place / "report.html"
    files.write(file, page)
    return str(file)


def _drawn(place: Any, content: Mapping[str, Any]) -> tuple[list[Drawn], list[str]]:
    """The figures, and a sentence for each kind of them that cannot be drawn."""
    rows = [row for row in content["rows"] if row["value"] is not None]
    records = report_probes.records_of(place, content)
    kinds: dict[str, Callable[[], Iterator[Drawn]]] = {
        "bars of the sets": lambda: _sets(rows, compare=content["compare"]),
        "prompt gain": lambda: _gains(rows),
        "scaling": lambda: _scaling(place, content),
        "zero-shot against the probe": lambda: report_probes.zero_shot_against_probe(records),
        "few-shot probes": lambda: report_probes.few_shot(records),
        "penalties": lambda: report_probes.searches(records),
        "robustness": lambda: report_probes.robustness_of(records),
        "places": lambda: report_probes.places(place, records),
        "overlap": lambda: _overlap(place),
        "confusions": lambda: _confusions(place, rows),
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


def _intro(content: Mapping[str, Any]) -> list[str]:
    rows = content["rows"]
    measured = {row["set"] for row in rows}
    sets, left_out = len(measured), len({*content["missing"], *content["failed"]} - measured)
    seen = content["weights"].get("examples_seen")
    step = content["weights"].get("step")
    of = f"Step {step:,}, {seen:,} examples seen. " if step and seen else ""
    return [
        f"{of}{sets} of {sets + left_out} data sets measured"
        + (f"; {left_out} are listed below with what to do about them." if left_out else ".")
    ]


def _facts(place: Any, content: Mapping[str, Any]) -> dict[str, str]:
    """What was measured and how, from the first record."""
    found = {
        "weights": f"{content['weights']['id']} (a hash of all parameters)",
        "path": str(content["weights"].get("path", "")),
    }
    if notes := content["weights"].get("notes"):
        found["of these weights"] = "; ".join(notes)
    for row in content["rows"][:1]:
        record = results.read(place / f"{row['set']}.json")
        if record:
            pixels = record.preprocessing
            found |= {
                "images": f"{pixels['resize']}; {pixels['crop']}",
                "precision": ", ".join(f"{k} {v}" for k, v in record.precision.items()),
                "versions": ", ".join(f"{k} {v}" for k, v in record.versions.items()),
            }
    found["rules"] = (
        "ties and scores that are no numbers count against the model; classes are joined by label"
        " key; shares have Clopper and Pearson's interval, everything else a bootstrap's"
    )
    return found


def _sets(rows: Sequence[Mapping[str, Any]], *, compare: str) -> Iterator[Drawn]:
    """Of each protocol, and of it against what others published; one set alone is in the table."""
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
    if len(gained) > 1:
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
    found: dict[str, list[tuple[float, Any]]] = {}
    for step, file in sorted(beside.items()):
        other = json.loads(file.read_text())
        for row in other["rows"]:
            if row["value"] is not None and math.isfinite(row["value"]):
                name = f"{row['name']}, {row['protocol'].replace('_', ' ')}"
                seen = other["weights"].get("examples_seen", step)
                found.setdefault(name, []).append((seen, row))
    return {name: points for name, points in found.items() if len(points) > 1}


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


def _confusions(place: Any, rows: list[Any]) -> Iterator[Drawn]:
    """Of the sets with the lowest accuracy, and the worst classes in words."""
    ranked = sorted((r for r in rows if r["protocol"] == "zero_shot"), key=lambda r: r["value"])
    shown = 0
    for row in ranked:
        file = place / "arrays" / f"{row['set']}.zero_shot.npz"
        if shown == CONFUSIONS or not file.exists():
            continue
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            label, chosen, names = (arrays[key] for key in ("label", "chosen", "names"))
        counts = np.zeros((len(names), len(names)), np.int64)
        np.add.at(counts, (label, chosen), 1)
        shown += 1
        yield (
            f"confusion_{row['set']}",
            confusion.draw(counts, names=[str(name) for name in names], title=row["name"]),
            f"{row['name']}: which classes are taken for which",
            _worst(place, row["set"]),
        )


def _worst(place: Any, name: str) -> str:
    record = results.read(place / f"{name}.json")
    made = record.measurements.get("zero_shot") if record else None
    if not made or not made.details.get("worst_classes"):
        return ""
    told = [
        f"{each['class']} {each['right']}/{each['n']}"
        + (f" (taken for {each['taken_for']} {each['taken']} times)" if each["taken"] else "")
        for each in made.details["worst_classes"]
    ]
    return f"Worst classes: {'; '.join(told)}."
