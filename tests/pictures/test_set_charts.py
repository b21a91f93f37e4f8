"""Charts of suites: whatever the numbers, a picture; and a page that needs nothing beside it."""

import numpy as np
import pytest

from clipjax.pictures import html, suite_page
from clipjax.pictures.charts import sets

ROWS = [
    {"name": "ImageNet 1k", "value": 0.63, "low": 0.62, "high": 0.64, "chance": 0.001,
     "published": {"paper": 0.632, "open_clip": 0.633}},
    {"name": "a set with a name that is much too long to be written", "value": 0.0, "low": 0.0,
     "high": 0.2, "chance": None, "published": {}},
    {"name": "$x$ <b>", "value": 1.0, "low": 0.9, "high": 1.0, "chance": 0.5,
     "published": {"paper": 0.99}},
]  # fmt: skip


def drawn(picture):
    pixels = np.asarray(picture)
    assert pixels.ndim == 3 and pixels.std() > 3
    return picture.size


@pytest.mark.parametrize("count", [1, 3, 27])
def test_rows_become_bars(count):
    rows = [ROWS[i % 3] for i in range(count)]
    width, height = drawn(sets.bars(rows, title="zero shot", published="ViT-B/32"))
    assert width == 1100 and height > 200
    drawn(sets.gains(rows, title="gain", xlabel="points"))


def test_points_and_lines():
    points = [{**row, "x": row["value"] / 2, "y": row["value"]} for row in ROWS]
    drawn(sets.scatter(points, title="a", xlabel="x", ylabel="y", fit=True))
    drawn(sets.scatter(points[:1], title="a", xlabel="x", ylabel="y", fit=True))
    lines = {f"set {i}": [(10.0, ROWS[0]), (1000.0, ROWS[2])] for i in range(8)}
    drawn(sets.scaling(lines, title="scaling"))


def test_the_page_escapes_and_holds_all():
    row = ROWS[2] | {
        "set": "x", "protocol": "zero_shot", "metric": "top1_accuracy", "n": 1234,
        "single_prompt": None, "notes": ["a <note>"], "warnings": ["class order? <x>"],
    }  # fmt: skip
    content = {
        "suite": "mine", "model": "<model>", "compare": "ViT-B/32", "rows": [row, row],
        "averages": {
            "zero_shot": {"mean": 1.0, "sets": 2, "of": 3},
            "few_shot": {"mean": 0.5, "sets": 1, "of": 3},
        },
        "missing": {"y": "copy <it>"}, "failed": {},
    }  # fmt: skip
    picture = html.Picture("title", "description", b"png")
    page = suite_page.page(content, facts={"weights": "ab"}, pictures=[picture], intro=["hello"])
    for told in (
        "&lt;model&gt; on mine",
        "a &lt;note&gt;",
        "class order? &lt;x&gt;",
        "copy &lt;it",
    ):
        assert told in page
    assert "Mean of zero shot: 100.00, over 2 sets; 1 of the suite&#x27;s are left out." in page
    assert "Mean of few shot" not in page, "of one set it is the set's"
    assert page.count("a &lt;note&gt;") == 1, "told once for both protocols of a set"
    assert "1,234" in page and "+1.00" in page
    assert "<script" not in page and "http" not in page
