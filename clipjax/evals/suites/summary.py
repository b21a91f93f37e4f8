"""The results of a suite in one table: summary.json, summary.csv and summary.md.

Nothing in them depends on when or how fast it was measured. The CSV has the columns of open_clip's
docs/openclip_results.csv, so that rows can be put below it; published rows stand beside ours.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from clipjax.common import files
from clipjax.evals import suites
from clipjax.evals.evaluated import EvaluatedModel
from clipjax.evals.metrics import Estimate
from clipjax.evals.suites.results import Measurement, Record
from clipjax.pictures import suite_page

WITHOUT_TRAINING = (
    "zero_shot",
    "retrieval",
    "associations",
    "rare_actions",
)  # published as one family
AVERAGE = "Average perf. on 38 datasets"


def write(
    records: Sequence[Record],
    *,
    folder: Any,
    suite: suites.Suite,
    model: EvaluatedModel,
    compare: str,
) -> dict[str, Any]:
    """Write the three files; returns what the JSON holds."""
    content = collect(records, suite=suite, model=model, compare=compare)
    for name, text in (
        ("summary.json", json.dumps(content, indent=1) + "\n"),
        ("summary.csv", as_csv(content)),
        ("summary.md", as_markdown(content)),
    ):
        files.write(folder / name, text)
    return content


def collect(
    records: Sequence[Record], *, suite: suites.Suite, model: EvaluatedModel, compare: str
) -> dict[str, Any]:
    """Plain values: a row for each set and protocol, averages with their coverage, what is
    missing."""
    by_id = {entry.id: entry for entry in suite.entries}
    rows = [
        _row(by_id[record.set], record, protocol, measurement, compare=compare)
        for record in records
        for protocol, measurement in record.measurements.items()
    ]
    return {
        "suite": suite.name,
        "model": model.name,
        "weights": {k: v for k, v in model.weights.items() if k != "time"},
        "compare": compare,
        "rows": rows,
        "averages": _averages(rows, total=len(records)),
        "missing": {r.set: r.message for r in records if r.status == "missing"},
        "failed": {r.set: r.message for r in records if r.status == "failed"},
    }


def _row(
    entry: suites.Entry, record: Record, protocol: str, measurement: Measurement, *, compare: str
) -> dict[str, Any]:
    main = measurement.main
    family = "zero_shot" if protocol in WITHOUT_TRAINING else protocol
    reported = suites.reported(entry, protocol=family, model=compare) if compare else {}
    agrees = record.data["agrees_with"]
    published = {
        source: values[measurement.metric]
        for source, values in reported.items()
        if measurement.metric in values and source in agrees
    }
    single = measurement.figures.get(f"single_prompt_{measurement.metric}")
    notes = list(measurement.warnings)
    if "paper" in published and entry.paper_prompts and protocol == "zero_shot":
        notes.append("the paper used other prompts")
    if reported and not set(reported) & set(agrees):
        notes.append("published numbers are of another split")
    if entry.note:
        notes.append(entry.note)
    return {
        "set": record.set,
        "name": record.name,
        "protocol": protocol,
        "metric": measurement.metric,
        "value": _number(main),
        "low": main.low,
        "high": main.high,
        "n": main.n,
        "single_prompt": _number(single) if single else None,
        "chance": measurement.details.get("chance"),
        "figures": {
            name: [_number(f), f.low, f.high, f.n] for name, f in measurement.figures.items()
        },
        "published": published,
        "warnings": measurement.warnings,
        "notes": notes,
    }


def _number(estimate: Estimate) -> float | None:
    """The value; None where it is no number, or was measured on nothing."""
    return estimate.value if estimate.n and math.isfinite(estimate.value) else None


def _averages(rows: Sequence[dict[str, Any]], *, total: int) -> dict[str, Any]:
    """The mean of main metrics by protocol, over how many sets of how many."""
    averages = {}
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        values = [r["value"] for r in rows if r["protocol"] == protocol and r["value"] is not None]
        if values:
            mean = sum(values) / len(values)
            averages[protocol] = {"mean": mean, "sets": len(values), "of": total}
    return averages


def as_csv(content: dict[str, Any]) -> str:
    """Shares with four digits; empty where there is none."""
    columns = [suites.entries()[key].name for key in suites.DATACOMP_38]
    names = dict.fromkeys(row["name"] for row in content["rows"])
    columns += [name for name in names if name not in columns]
    file = io.StringIO()
    writer = csv.DictWriter(file, ["name", "pretrained", AVERAGE, *columns], lineterminator="\n")
    writer.writeheader()
    for row in _csv_rows(content):
        writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})
    return file.getvalue()


def _csv_rows(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    weights = content["weights"]["id"]
    families: dict[str, dict[str, dict[str, Any]]] = {}
    for row in content["rows"]:
        family = "" if row["protocol"] in WITHOUT_TRAINING else row["protocol"]
        families.setdefault(family, {})[row["name"]] = row
    for family, rows in families.items():
        suffix = f" ({family})" if family else ""
        ours = {name: row["value"] for name, row in rows.items()}
        whole = {suites.entries()[key].name for key in suites.DATACOMP_38}
        if not family and whole <= ours.keys():
            ours[AVERAGE] = sum(ours[name] for name in whole) / len(whole)
        yield {"name": content["model"] + suffix, "pretrained": weights, **ours}
        for source in dict.fromkeys(s for row in rows.values() for s in row["published"]):
            values = {
                name: row["published"][source]
                for name, row in rows.items()
                if source in row["published"]
            }
            yield {"name": content["compare"] + suffix, "pretrained": source, **values}


def as_markdown(content: dict[str, Any]) -> str:
    """A page to read: percent with intervals, ours beside the published, then what is missing."""
    compare = content["compare"]
    sources = list(dict.fromkeys(s for row in content["rows"] for s in row["published"]))
    head = ["set", "protocol", "metric", "ours", "95 %", "n", "one prompt"]
    head += [part for s in sources for part in (f"{s} {compare}", "difference")]
    lines = [
        f"# {content['suite']}: {content['model']}",
        "",
        f"Weights {content['weights']['id']} ({content['weights'].get('path', '')}).",
        *(f"Of these weights: {note}." for note in content["weights"].get("notes", ())),
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    notes = suite_page.numbered_notes(content["rows"])
    for row in content["rows"]:
        number = notes.get(suite_page.note_of(row))
        cells = [
            row["name"] + (f" ({number})" if number else ""),
            row["protocol"].replace("_", " "),
            row["metric"].replace("_", " "),
            suite_page.percent(row["value"]),
            f"{suite_page.percent(row['low'])} … {suite_page.percent(row['high'])}",
            f"{row['n']:,}",
            suite_page.percent(row["single_prompt"]),
        ]
        for source in sources:
            other = row["published"].get(source)
            known = other is not None and row["value"] is not None
            difference = f"{100 * (row['value'] - other):+.2f}" if known else ""
            cells += [suite_page.percent(other), difference]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    lines += suite_page.averages(content)
    numbered = [f"{number}. {note}" for note, number in notes.items()]
    for title, which in (("Notes", numbered), ("Missing", "missing"), ("Failed", "failed")):
        listed = which if isinstance(which, list) else _listed(content[which])
        if listed:
            lines += ["", f"## {title}", "", *listed]
    return "\n".join(lines) + "\n"


def _listed(messages: dict[str, str]) -> list[str]:
    return [
        f"- {suites.entries()[k].name if k in suites.entries() else k}: {v}"
        for k, v in messages.items()
    ]
