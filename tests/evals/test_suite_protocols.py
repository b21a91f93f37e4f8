"""Probes and the protocols with data of their own shape, on a model whose embeddings are given."""

import json
import types

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from clipjax.common.exits import DataError
from clipjax.data.source import Source
from clipjax.evals import suites
from clipjax.evals.protocols import (
    action,
    few_shot,
    geolocation,
    lexicon,
    linear_probe,
    pm_k,
    registry,
    robustness,
)
from clipjax.evals.suites import set_data
from tests.evals import known_model


class Keys(Source):
    """Images known by key, whose class is the first part of the key."""

    def __init__(self, keys, *, name="s", fingerprint="f"):
        self.keys, self.name, self.fingerprint = list(keys), name, fingerprint

    def __len__(self):
        return len(self.keys)

    def key(self, index):
        return self.keys[index]

    def label(self, index):
        return self.keys[index].split("/")[0]


def split(keys, *, classes, fingerprint="f", metric="top1_accuracy", path=""):
    source = Keys(keys, fingerprint=fingerprint)
    labels = np.array([classes.index(source.label(i)) for i in range(len(source))], np.int32)
    return types.SimpleNamespace(
        entry=suites.Entry("mine", "Mine", path=str(path)),
        source=source,
        where=f"there, {fingerprint}",
        kind="classification",
        split=fingerprint,
        n=len(source),
        keys=tuple(classes),
        labels=labels,
        metric=metric,
    )


def on_set(data, *, embed, train=None, features=None, validation=None, **fields):
    def open_train():
        if train is None:
            raise set_data.Missing("no training split")
        return train

    return known_model.on_set(
        data,
        open_train=open_train,
        open_validation=lambda: validation,
        image_embed=embed,
        features=lambda part: features[part.split],
        **fields,
    )


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    classes = [str(k) for k in range(10)]
    order = np.random.default_rng(0).permutation(len(y))
    test, train = order[:300], order[300:900]
    keys = {
        name: [f"{y[i]}/{i}.png" for i in rows] for name, rows in (("test", test), ("train", train))
    }
    data = split(keys["test"], classes=classes, fingerprint="test")
    # Joined by label: the training split knows its classes in another order.
    given = split(keys["train"], classes=classes[::-1], fingerprint="train")
    embed = x[test].astype(np.float32)
    means = np.stack([x[train][y[train] == k].mean(axis=0) for k in range(10)]).astype(np.float32)
    features = {"test": x[test], "train": x[train]}
    return on_set(data, embed=embed, weights=means, train=given, features=features)


def test_a_linear_probe_joins_its_splits_by_label(digits):
    made = linear_probe.measure(digits)
    assert made.metric == "top1_accuracy" and made.main.value > 0.93 and made.main.n == 300
    assert set(made.figures) == {"top1_accuracy", "mean_per_class_accuracy", "top5_accuracy"}
    assert made.details["trained"] + made.details["validated"] == 600 and made.details["folds"] == 1
    assert np.mean(made.arrays["rank"] == 0) == made.main.value and not made.warnings
    searched = made.details["searched"]
    assert 10 <= len(searched) <= 15 and json.dumps(made.details)
    assert any(float(p) == pytest.approx(made.details["penalty"][0], rel=1e-5) for p in searched)


def test_the_penalty_is_searched_on_the_official_validation_split(digits):
    x, y = load_digits(return_X_y=True)
    classes = [str(k) for k in range(10)]
    rows = {"train": np.arange(0, 200), "val": np.arange(1000, 1400), "test": np.arange(1400, 1797)}
    noise = {"train": 3.0, "val": 12.0, "test": 12.0}  # as no part of the training split shows
    rng = np.random.default_rng(0)
    features = {k: x[r, 16:48] + noise[k] * rng.normal(size=(len(r), 32)) for k, r in rows.items()}
    parts = {
        k: split([f"{y[i]}/{i}.png" for i in r], classes=classes, fingerprint=k)
        for k, r in rows.items()
    }
    given = {"embed": None, "train": parts["train"], "features": features}
    on = on_set(parts["test"], validation=parts["val"], **given)
    made = linear_probe.measure(on)
    assert (made.details["trained"], made.details["validated"]) == (200, 400)
    assert made.details["validation"] == "official split" and not made.warnings
    assert made.details["train"] == "there, train; there, val"
    settings = linear_probe.settings(on)
    assert (settings["train"], settings["validation"]) == ("train", "val")

    def reference(penalty, parts, tested):
        fitted = LogisticRegression(C=1 / penalty, max_iter=5000, tol=1e-6)
        fitted.fit(
            np.concatenate([features[k] for k in parts]), y[np.r_[*(rows[k] for k in parts)]]
        )
        return fitted.score(features[tested], y[rows[tested]])

    searched = {float(p): value[0] for p, value in made.details["searched"].items()}
    seen = {p: v for p, v in searched.items() if p >= 1}
    for penalty, value in seen.items():
        assert value == pytest.approx(reference(penalty, ["train"], "val"), abs=2 / 400)
    (penalty,) = made.details["penalty"]
    assert max(searched, key=lambda p: (searched[p], p)) == pytest.approx(penalty, rel=1e-5)
    final = reference(penalty, ["train", "val"], "test")
    assert made.main.value == pytest.approx(final, abs=2 / 397)
    parts["test"].entry = suites.get("dtd")
    drawn = linear_probe.measure(on_set(parts["test"], **given))
    assert (drawn.details["trained"], drawn.details["validated"]) == (160, 40)
    assert drawn.details["validation"] == "part of the training split"
    assert drawn.details["penalty"][0] < penalty  # noise asks for a larger one
    assert "validation split (1,880 images) is not there" in drawn.warnings[0]


def test_few_shots_draw_from_training_and_validation_images(digits, monkeypatch):
    train, y = digits.open_train(), load_digits().target
    more = split([f"{y[i]}/{i}.png" for i in range(40)], classes=train.keys, fingerprint="val")
    seen = []

    def curve(features, labels, **_):
        seen.extend([features.shape, labels[600:].tolist()])
        return few_shot.Curve({}, {}, {}, {1: "seen"})

    monkeypatch.setattr(few_shot, "curve", curve)
    features = {
        "train": digits.features(train),
        "test": digits.features(digits.data),
        "val": np.ones((40, 64)),
    }
    on = on_set(digits.data, embed=None, train=train, validation=more, features=features)
    with pytest.raises(set_data.Missing, match="there, train: seen"):
        few_shot.measure(on)
    assert seen == [(640, 64), y[:40].tolist()]


def test_few_shots_stand_beside_zero_shot(digits):
    made = few_shot.measure(digits)
    assert made.metric == "16_shot_top1_accuracy" and made.details["classes"] == 10
    assert made.figures["1_shot_top1_accuracy"].value < made.main.value
    assert made.figures["zero_shot_top1_accuracy"].n == 300
    assert json.dumps(made.details)


def test_probes_need_a_training_split_of_their_own(digits):
    alone = on_set(digits.data, embed=digits.image_embed)
    with pytest.raises(set_data.Missing):
        linear_probe.measure(alone)
    same = on_set(digits.data, embed=digits.image_embed, train=digits.data)
    with pytest.raises(set_data.Missing, match="no training split of its own"):
        few_shot.measure(same)
    assert linear_probe.settings(alone)["train"] == ""
    other = split(["cat/1.png"], classes=["cat"], fingerprint="train")
    with pytest.raises(DataError, match="class 'cat', which is none of the evaluation split's 10"):
        linear_probe.measure(
            on_set(digits.data, embed=digits.image_embed, train=other, features={})
        )


def test_videos_by_their_middle_frame_and_by_all():
    keys = [f"run/v/{k}.jpg" for k in range(3)] + ["hop/w.jpg"]
    embed = np.array([[1, 0], [0.2, 0.3], [1, 0], [0, 1]], np.float32)
    on = on_set(
        split(keys, classes=["run", "hop"]), embed=embed, weights=np.eye(2, dtype=np.float32)
    )
    made = action.measure(on)
    assert made.figures["top1_accuracy"].value == 0.5 and made.main.n == 2
    assert made.figures["frame_averaged_top1_accuracy"].value == 1.0
    assert made.details == {"videos": 2, "frames": 4}


def test_anchor_frames_with_their_neighbours(tmp_path):
    keys = [f"run/v/{k:03}.jpg" for k in range(30)]
    embed = np.tile(np.array([[1, 0]], np.float32), (30, 1))
    embed[15] = [0, 1]
    weights = np.eye(2, dtype=np.float32)
    on = on_set(split(keys, classes=["run", "hop"], path=tmp_path), embed=embed, weights=weights)
    with pytest.raises(set_data.Missing, match=r"anchors\.txt is not there"):
        pm_k.measure(on)
    (tmp_path / "anchors.txt").write_text("run/v/002.jpg\nrun/v/010.jpg\n")
    made = pm_k.measure(on)
    assert {k: e.value for k, e in made.figures.items()} == {"pm0": 1, "pm10": 0.5, "mean_pm": 0.75}
    (tmp_path / "anchors.txt").write_text("run/v/999.jpg\n")
    with pytest.raises(DataError, match="1 of 1 frames are not there"):
        pm_k.measure(on)


def test_places_come_from_the_nearest_reference(tmp_path):
    embed = np.eye(3, dtype=np.float32)
    test = split(["a.jpg", "b.jpg"], classes=["a.jpg", "b.jpg"], path=tmp_path / "test")
    train = split(["p.jpg", "q.jpg", "r.jpg"], classes=["p.jpg", "q.jpg", "r.jpg"])
    embedder = {"images": lambda *_, **__: embed}
    on = on_set(test, embed=embed[[2, 0]], train=train, embedder=embedder)
    lines = ["image,latitude,longitude", "a.jpg,48.86,2.35", "b.jpg,0,0"]
    lines += ["p.jpg,0,0", "q.jpg,60,60", "r.jpg,51.51,-0.13"]
    (tmp_path / "places.csv").write_text("\n".join(lines))
    made = geolocation.measure(on)
    assert made.arrays["distance_km"] == pytest.approx([344, 0], abs=3)
    assert [made.figures[f"within_{km}_km"].value for km in (1, 200, 750)] == [0.5, 0.5, 1.0]
    assert made.details["references"] == 3


def test_words_out_of_each_images_own_list(tmp_path):
    asked = []

    def texts(_, given, **__):
        asked.extend(given)
        return np.eye(2, dtype=np.float32)

    on = on_set(
        split(["x.png"], classes=["x.png"], path=tmp_path),
        embed=np.array([[1, 0.5]], np.float32),
        embedder={"texts": texts},
    )
    (tmp_path / "words.csv").write_text("image,word,lexicon\nx.png,Cat,cat dog\n")
    assert lexicon.measure(on).main.value == 1.0
    assert asked == ['a photo of the word "cat".', 'a photo of the word "dog".']
    (tmp_path / "words.csv").write_text("image,word\nx.png,Cat\n")
    with pytest.raises(DataError, match="header image,word,lexicon"):
        lexicon.measure(on)


def test_imagenet_on_the_classes_of_its_shifts(monkeypatch, tmp_path):
    wnids = ("n1", "n2", "n3")
    data = split(["n1/a", "n2/b", "n3/c"], classes=wnids)
    data.entry = suites.entries()["imagenet"]
    embed = np.array([[0.5, 0, 0.9], [0, 1, 0], [0, 0, 1]], np.float32)
    on = on_set(data, embed=embed, weights=np.eye(3, dtype=np.float32))
    on.folder = str(tmp_path)

    def open_set(entry, **_):
        if entry.id != "imagenet_a":
            raise set_data.Missing("not there")
        return types.SimpleNamespace(keys=("n1", "n2"))

    monkeypatch.setattr(set_data, "open_set", open_set)
    made = robustness.measure(on)
    assert made.figures["top1_accuracy"].value == 2 / 3
    assert made.figures["on_imagenet_a"].value == 1.0 and made.figures["on_imagenet_a"].n == 2
    data.entry = suites.entries()["pets"]
    with pytest.raises(set_data.Missing, match="no data of a shift"):
        robustness.measure(on)


def test_every_protocol_has_a_name_that_suites_know():
    for name in suites.PROTOCOLS:
        assert registry.get(name).measure and registry.FACTS[name].sets
