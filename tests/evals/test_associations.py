"""WinoGAViL: Jaccard indices against scikit-learn's and against guessing, and its files."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from clipjax.common.exits import DataError
from clipjax.data.sources.associations import Cue
from clipjax.evals import suites
from clipjax.evals.protocols import associations
from clipjax.evals.suites import set_data
from tests.data import tars
from tests.evals import known_model

CUES = [
    ("west", ["eagle", "teepee", "ash"], ["teepee"]),
    ("Owl", ["ash", "tea party", "eagle"], ["ash", "eagle"]),
]


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def drawn(rng, sizes, *, images):
    """Cues with two or three associated candidates."""
    cues = []
    for size in sizes:
        candidates = rng.choice(images, size, replace=False)
        associated = rng.permutation(size) < rng.integers(2, 4)
        cues.append(Cue("x", tuple(candidates.tolist()), tuple(associated.tolist())))
    return tuple(cues)


def test_jaccard_indices_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    cues = drawn(rng, [5, 6, 10, 12] * 25, images=80)
    images, texts = unit(rng.normal(size=(80, 6))), unit(rng.normal(size=(100, 6)))
    expected = []
    for text, cue in zip(texts, cues, strict=True):
        scores = [float(text @ images[index]) for index in cue.candidates]
        best = sorted(range(len(scores)), key=lambda i: -scores[i])[: sum(cue.associated)]
        chosen = [i in best for i in range(len(scores))]
        expected.append(jaccard_score(cue.associated, chosen))
    found = associations.jaccards(images, texts, cues=cues)
    np.testing.assert_allclose(found, expected)
    assert 0.1 < found.mean() < 0.5
    figures = associations.means(found, cues=cues)
    assert figures["jaccard_10_12"].n == 50 and figures["jaccard"].n == 100
    by_size = np.array(expected).reshape(-1, 4).mean(axis=0)
    for name, value in zip(("5", "6", "10", "12"), by_size, strict=True):
        assert figures[f"jaccard_{name}"].value == pytest.approx(value)
    assert figures["jaccard_10_12"].value == pytest.approx(by_size[2:].mean())
    assert figures["jaccard_5_6"].value == pytest.approx(by_size[:2].mean())
    estimate = figures["jaccard"]
    error = np.std(expected) / 10
    assert estimate.low < estimate.value < estimate.high
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_chance_is_what_guessing_gives():
    rng = np.random.default_rng(1)
    cues = drawn(rng, [12] * 3 + [5] * 3, images=20)
    rounds = [
        associations.jaccards(
            unit(rng.normal(size=(20, 30))), unit(rng.normal(size=(6, 30))), cues=cues
        )
        for _ in range(4000)
    ]
    np.testing.assert_allclose(associations.chances(cues), np.mean(rounds, axis=0), atol=0.02)
    two_of_five = associations.chances([Cue("x", tuple(range(5)), (True, True) + (False,) * 3)])
    assert two_of_five[0] == pytest.approx((6 * (1 / 3) + 1) / 10)  # one in common, both in common


def test_ties_and_scores_that_are_no_numbers_count_against_the_model():
    cue = (Cue("x", (0, 1, 2, 3), (True, True, False, False)),)
    alike = np.ones((4, 2), np.float32) / np.sqrt(2, dtype=np.float32)
    assert associations.jaccards(alike, alike[:1], cues=cue) == [0]
    images = np.array([[1, 0], [np.nan, 0], [0.5, 0], [0, 0]], np.float32)
    text = np.array([[1, 0]], np.float32)
    assert associations.jaccards(images, text, cues=cue) == [1 / 3]
    images[[1, 2]] = images[[2, 1]]
    assert associations.jaccards(images, text, cues=cue) == [1 / 3]
    images[2] = 0
    assert associations.jaccards(images, text, cues=cue) == [1]


def test_cues_become_the_texts_that_datacomp_asks():
    assert [associations.prompt(cue) for cue in ("Owl", "full moon", "unicorn", "you")] == [
        *("An owl", "A full moon", "An unicorn", "A you")
    ]


def copied(folder, cues=CUES, *, without=()):
    """The set as its owners publish it."""
    images = folder / "winogavil" / "winogavil_images"
    images.mkdir(parents=True)
    for i, name in enumerate(sorted({name for _, names, _ in cues for name in names})):
        if name not in without:
            (images / f"{name}.jpg").write_bytes(tars.picture(i))
    quoted = [
        ",".join(['"' + json.dumps(c).replace('"', '""') + '"', cue, '"'])
        + json.dumps(a).replace('"', '""')
        + f'",67,{len(a)},{len(c)}'
        for cue, c, a in cues
    ]
    lines = [f"{i},{line}" for i, line in enumerate(quoted)]
    head = ",candidates,cue,associations,score_fool_the_ai,num_associations,num_candidates"
    (folder / "winogavil" / "winogavil_dataset.csv").write_text("\n".join([head, *lines]) + "\n")
    return str(folder)


def entry(count):
    known = suites.get("winogavil")
    return dataclasses.replace(
        known, protocols={"open_clip": suites.Expected(count, "jaccard_10_12")}
    )


def test_the_owners_files_are_read_and_scored(tmp_path):
    data = set_data.open_set(entry(2), data=copied(tmp_path), image_size=8)
    assert (data.kind, data.n, data.size) == ("associations", 4, 2)
    assert (data.agrees, data.metric) == (("open_clip",), "jaccard_10_12")
    source = data.source
    names = [source.key(i) for i in range(4)]
    assert names == ["ash", "eagle", "tea party", "teepee"]
    assert source[2] == {"image": tars.picture(2), "key": "tea party"}
    first, second = source.cues
    assert [names[i] for i in first.candidates] == ["eagle", "teepee", "ash"]
    assert first.associated == (False, True, False) and second.associated == (True, False, True)
    asked = []

    def texts(_, given, **__):
        asked.extend(given)
        return np.eye(4, dtype=np.float32)[[3, 2]]

    free = dataclasses.replace(data.entry, protocols={})
    on = known_model.on_set(
        dataclasses.replace(data, entry=free, agrees=()),
        image_embed=np.eye(4, dtype=np.float32),
        embedder={"texts": texts},
    )
    made = associations.measure(on)
    assert asked == ["A west", "An owl"] and made.metric == "jaccard"
    assert made.main.value == pytest.approx((1 + 1 / 3) / 2) and made.main.n == 2
    assert made.details["cues"] == 2
    assert made.details["chance"] == pytest.approx((1 / 3 + (2 / 3 * 1 / 3 + 1 / 3)) / 2)
    assert np.isnan(made.figures["jaccard_10_12"].value)


def test_wrong_copies_are_no_score(tmp_path):
    with pytest.raises(
        set_data.Missing, match=r"huggingface\.co/datasets/nlphuji/winogavil to DIR"
    ):
        set_data.open_set(entry(2), data="", image_size=8)
    folder = copied(tmp_path, without=("eagle",))
    with pytest.raises(DataError, match=r"1 of 4 images are not there, such as eagle\.jpg; unpack"):
        set_data.open_set(entry(2), data=folder, image_size=8)
    (tmp_path / "winogavil" / "winogavil_images" / "eagle.jpg").write_bytes(tars.picture(1))
    with pytest.raises(DataError, match=r"holds 2 cues where WinoGAViL has 3 \(open_clip\)"):
        set_data.open_set(entry(3), data=folder, image_size=8)
    file = tmp_path / "winogavil" / "winogavil_dataset.csv"
    whole = file.read_text()
    for content, told in (
        ("cue,candidates\nwest,[]\n", "needs the columns cue, candidates, associations; has: cue"),
        ("", "has: no rows"),
        (whole.replace('[""teepee""]', "teepee"), "row 0 needs a cue, and JSON lists"),
        (whole.replace('[""teepee""]', '[""wigwam""]'), "row 0 needs a cue"),
        (whole.replace(",Owl,", ",,"), "row 1 needs a cue"),
        (whole.split(',"[""ash"", ""eagle', maxsplit=1)[0], "row 1 needs"),
    ):
        file.write_text(content)
        with pytest.raises(DataError, match=told) as caught:
            set_data.open_set(entry(2), data=folder, image_size=8)
        assert "\n" not in str(caught.value)
