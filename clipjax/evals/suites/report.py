"""The report of a suite's results: report.html with its tables and figures, and the figures.

`run.suites` writes it after each suite, and the overlap program again with its own figure, from the
files that they left: nothing is measured here.
"""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from clipjax.common import files
from clipjax.evals.suites import figures, results
from clipjax.pictures import canvas, html, suite_page


def write(folder: str) -> str:
    """Write FOLDER/report.html and its figures; returns the page's path.

    Without matplotlib the page has its tables only. A figure that cannot be drawn is left out, and
    the page says so.
    """
    output = epath.Path(folder)
    content = json.loads((output / "summary.json").read_text())
    drawn, left_out = figures.draw(output, content)
    pictures = []
    for name, picture, title, description in drawn:
        data = canvas.png(picture, title=title, description=description)
        files.write(output / "figures" / f"{name}.png", data)
        pictures.append(html.Picture(title, description, data))
    page = suite_page.page(
        content,
        facts=_facts(output, content),
        pictures=pictures,
        intro=[*_intro(content), *left_out],
    )
    file = output / "report.html"
    files.write(file, page)
    return str(file)


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


def _facts(output: Any, content: Mapping[str, Any]) -> dict[str, str]:
    """What was measured and how, from the first record."""
    facts = {
        "weights": f"{content['weights']['id']} (a hash of all parameters)",
        "path": str(content["weights"].get("path", "")),
    }
    if notes := content["weights"].get("notes"):
        facts["of these weights"] = "; ".join(notes)
    for row in content["rows"][:1]:
        record = results.read(output / f"{row['set']}.json")
        if record:
            pixels = record.preprocessing
            facts |= {
                "images": f"{pixels['resize']}; {pixels['crop']}",
                "precision": ", ".join(f"{k} {v}" for k, v in record.precision.items()),
                "versions": ", ".join(f"{k} {v}" for k, v in record.versions.items()),
            }
    facts["rules"] = (
        "ties and scores that are no numbers count against the model; classes are joined by label"
        " key; shares have Clopper and Pearson's interval, everything else a bootstrap's"
    )
    return facts
