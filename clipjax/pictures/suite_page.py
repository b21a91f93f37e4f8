"""The page of a suite's results: one HTML file that holds its pictures and needs no network."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from clipjax.pictures import html

STYLE = """
table.sets td, table.sets th { padding: 5px 0 5px 16px; white-space: nowrap; font-size: 14px; }
table.sets td:first-child, table.sets th:first-child { padding-left: 0; }
.scroll { overflow-x: auto; }
.warn { background: #fdf1e3; border-left: 4px solid #e69f00; padding: 8px 14px; margin: 10px 0; }
.plus { color: #00583f; } .minus { color: #a43d00; }
ul.plain { padding-left: 20px; margin: 6px 0 0; overflow-wrap: anywhere; }
ul.plain li { margin-bottom: 6px; font-size: 14px; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 8px 0 0; }
dl.facts dt { color: #5a656f; } dl.facts dd { margin: 0; overflow-wrap: anywhere; }
"""


def page(
    content: Mapping[str, Any],
    *,
    facts: Mapping[str, str],
    pictures: Sequence[html.Picture],
    intro: Sequence[str],
) -> str:
    """The page as HTML; all texts are escaped.

    Args:
      content: of the suite's summary (`evals.suites.summary.collect`).
      facts: what was measured and how, by name.
      pictures: in order.
      intro: sentences that say what the page shows.
    """
    title = f"{content['model']} on {content['suite']}"
    warned = [
        f"{row['name']}: {note}" for row in content["rows"] for note in row.get("warnings", ())
    ]
    parts = [
        html.head(title, style=STYLE),
        f"<header>\n<h1>{escape(title)}</h1>\n",
        *(f'<p class="muted">{escape(line)}</p>\n' for line in intro),
        "</header>\n",
        *(f'<div class="warn">{escape(line)}</div>\n' for line in warned),
        _table(content),
        *(html.figure(picture) for picture in pictures),
        _list("Missing data sets, and how to get them", content["missing"]),
        _list("Data sets that cannot be used", content["failed"]),
        "<section>\n<h2>How it was measured</h2>\n<dl class='facts'>\n",
        *(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>\n" for k, v in facts.items()),
        "</dl>\n</section>\n</main>\n</body>\n</html>\n",
    ]
    return "".join(parts)


def _table(content: Mapping[str, Any]) -> str:
    rows = content["rows"]
    sources = list(dict.fromkeys(s for row in rows for s in row["published"]))
    compare = content["compare"]
    columns = ["", "protocol", "metric", "ours", "95 % interval", "n", "one prompt", "guessing"]
    for source in sources:
        columns += [f"{compare}, {source}", "ours minus it"]
    columns.append("note")
    cells = "".join(f"<th>{escape(name)}</th>" for name in columns)
    lines = [
        "<section>\n<h2>Results</h2>\n<p class='muted'>Percent. Each value with its interval of"
        " 95 %; numbers that others published stand beside it only where the data have the size"
        " they report.</p>\n<div class='scroll'><table class='sets'>\n<thead><tr>",
        f"{cells}</tr></thead>\n<tbody>\n",
    ]
    notes = numbered_notes(rows)
    for row in rows:
        row_cells = [
            escape(row["name"]),
            escape(row["protocol"].replace("_", " ")),
            escape(row["metric"].replace("_", " ").replace("top1", "top-1")),
            f"<b>{percent(row['value'])}</b>",
            f"{percent(row['low'])} … {percent(row['high'])}",
            f"{row['n']:,}",
            percent(row["single_prompt"]),
            percent(row["chance"]),
        ]
        for source in sources:
            other = row["published"].get(source)
            row_cells += [percent(other), _difference(row["value"], other)]
        row_cells.append(str(notes.get(note_of(row), "")))
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in row_cells) + "</tr>\n")
    lines.append("</tbody>\n</table></div>\n")
    lines += [f"<p>{escape(line)}</p>\n" for line in averages(content)]
    if notes:
        listed = "".join(f"<li>{escape(note)}</li>\n" for note in notes)
        lines.append(f"<ol class='muted'>\n{listed}</ol>\n")
    return "".join(lines) + "</section>\n"


def note_of(row: Mapping[str, Any]) -> str:
    """What is to be known of a row's numbers; "" for nothing."""
    return f"{row['name']}: {'; '.join(row['notes'])}" if row["notes"] else ""


def numbered_notes(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The notes of all rows, each once, with numbers from 1."""
    unique = dict.fromkeys(note for note in map(note_of, rows) if note)
    return {note: number for number, note in enumerate(unique, 1)}


def averages(content: Mapping[str, Any]) -> list[str]:
    """A line for each protocol with several sets; of how many where sets of the suite are left."""
    left = len(content["missing"]) + len(content["failed"])
    return [
        f"Mean of {protocol.replace('_', ' ')}: {percent(found['mean'])}, over {found['sets']}"
        + (f" sets; {left} of the suite's are left out." if left else " sets.")
        for protocol, found in content["averages"].items()
        if found["sets"] > 1
    ]


def percent(value: float | None) -> str:
    """Two digits after the point; "" for none."""
    return "" if value is None else f"{100 * value:.2f}"


def _difference(ours: float | None, other: float | None) -> str:
    if ours is None or other is None:
        return ""
    kind = "plus" if ours >= other else "minus"
    return f'<span class="{kind}">{100 * (ours - other):+.2f}</span>'


def _list(title: str, messages: Mapping[str, str]) -> str:
    if not messages:
        return ""
    items = "".join(
        f"<li><b>{escape(name)}</b>: {escape(message)}</li>\n" for name, message in messages.items()
    )
    return f"<section>\n<h2>{escape(title)}</h2>\n<ul class='plain'>\n{items}</ul>\n</section>\n"
