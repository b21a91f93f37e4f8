"""The page of a run: one file that holds its pictures, needs no network and no JavaScript."""

import base64
import dataclasses
from collections.abc import Sequence
from html import escape

from clipjax.pictures.table import Row

REFRESH_SECONDS = 60

STYLE = """
body { margin: 0; background: #f4f6f8; color: #1c2329;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1360px; margin: 0 auto; padding: 28px 24px 48px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 0 0 2px; }
section { background: #fff; border: 1px solid #d8dee4; border-radius: 10px;
  padding: 20px 24px; margin-top: 20px; }
.muted, figcaption, footer { color: #5a656f; }
.state { display: inline-block; border-radius: 99px; padding: 1px 12px; font-size: 14px;
  background: #dcecf7; color: #004b78; margin-right: 8px; }
.state.complete { background: #d6efe7; color: #00583f; }
.bar { background: #d8dee4; border-radius: 3px; height: 6px; margin: 14px 0 0; overflow: hidden; }
.bar i { display: block; height: 100%; background: #0072b2; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: normal; color: #5a656f; font-size: 14px; }
td { text-align: right; padding: 5px 0 5px 18px; border-top: 1px solid #e7ebee;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; }
td.now { font-weight: 600; }
td.share { width: 26%; }
.track { position: relative; background: #eef1f4; border-radius: 3px; height: 10px; }
.track i { display: block; height: 100%; border-radius: 3px; background: #0072b2; }
.track b { position: absolute; top: -3px; width: 2px; height: 16px; background: #d55e00; }
figure { margin: 0; } figcaption { font-size: 14px; margin-top: 12px; }
img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
footer { font-size: 13px; margin-top: 24px; }
@media (max-width: 760px) {
  main { padding: 16px 8px 32px; } section { padding: 14px 12px; }
  td { padding-left: 10px; font-size: 14px; }
  th:nth-child(2), td.share, th:nth-child(5), td:nth-child(5) { display: none; } }
"""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG that shows its title, and the caption below it."""

    title: str
    description: str
    png: bytes


def page(
    *,
    title: str,
    facts: Sequence[str],
    rows: Sequence[Row],
    notes: Sequence[str] = (),
    pictures: Sequence[Picture],
    state: str,
    progress: float | None = None,
    complete: bool = False,
    attribution: str = "",
) -> str:
    """The page as HTML; all texts are escaped.

    Args:
      title: the run's name.
      facts: short phrases below it, such as "step 400 of 1,000".
      rows: of the table against guessing.
      notes: sentences below it, without which its figures are misread.
      pictures: in order.
      state: "running", "complete", ….
      progress: share of the run that is done, None where unknown.
      complete: whether nothing will change any more; otherwise the browser loads the page again
        every REFRESH_SECONDS.
      attribution: of the artwork in the pictures.
    """
    refresh = "" if complete else f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">\n'
    kind = "state complete" if complete else "state"
    parts = [
        f"<header>\n<h1>{escape(title)}</h1>\n"
        f'<div><span class="{kind}">{escape(state)}</span>'
        f'<span class="muted">{escape(" · ".join(facts))}</span></div>\n{_bar(progress)}</header>\n'
    ]
    if rows:
        parts.append(_table(rows, notes))
    parts += [figure(picture) for picture in pictures]
    made_by = [f"Artwork: {attribution}"] if attribution else []
    if not complete:
        made_by.append(f"This page loads itself again every {REFRESH_SECONDS} seconds.")
    lines = "".join(f"<div>{escape(line)}</div>\n" for line in made_by)
    start = head(title, refresh=refresh)
    return f"{start}{''.join(parts)}<footer>\n{lines}</footer>\n</main>\n</body>\n</html>\n"


def head(title: str, *, style: str = "", refresh: str = "") -> str:
    """All up to the first element of the page, which stands in <main>."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'{refresh}<link rel="icon" href="data:,">\n'  # or browsers ask the server for one
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<main>\n"
    )


def _bar(progress: float | None) -> str:
    if progress is None:
        return ""
    return f'<div class="bar"><i style="width: {_percent(progress)}"></i></div>\n'


def _table(rows: Sequence[Row], notes: Sequence[str]) -> str:
    lines = [
        "<section>\n<h2>Latest measurements</h2>\n"
        '<p class="muted" style="margin: 0 0 8px">Beside each, what guessing would score; in the'
        " bars it is the upright mark.</p>\n<table>\n<thead><tr><th>metric</th><th></th>"
        "<th>now</th><th>guessing</th><th>against guessing</th><th>step</th></tr></thead>\n<tbody>"
    ]
    for row in rows:
        lines.append(
            f'<tr><td title="{escape(row.name)}">{escape(row.label)}</td>'
            f'<td class="share">{_share(row)}</td><td class="now">{row.show(row.value)}</td>'
            f"<td>{row.show(row.chance)}</td><td>{row.times}</td><td>{row.step:,}</td></tr>"
        )
    lines.append("</tbody>\n</table>")
    lines += [f'<p class="muted">{escape(note)}</p>' for note in notes]
    return "\n".join(lines) + "\n</section>\n"


def _share(row: Row) -> str:
    if not row.is_share:
        return ""
    mark = "" if row.chance is None else f'<b style="left: {_percent(row.chance)}"></b>'
    return f'<div class="track"><i style="width: {_percent(row.value)}"></i>{mark}</div>'


def _percent(share: float) -> str:
    share = share if share == share else 0.0  # NaN
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def figure(picture: Picture) -> str:
    """A section with the picture and its caption."""
    content = base64.b64encode(picture.png).decode()
    return (
        "<section>\n<figure>\n"
        f'<img alt="{escape(picture.title)}" src="data:image/png;base64,{content}">\n'
        f"<figcaption>{escape(picture.description)}</figcaption>\n</figure>\n</section>\n"
    )
