"""Sets of videos: UCF101's three splits, RareAct's average precision, against scikit-learn."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from clipjax.common.exits import ConfigError, DataError
from clipjax.evals import suites
from clipjax.evals.classification import Classifier
from clipjax.evals.probe import penalty
from clipjax.evals.protocols import action, linear_probe, rare_actions
from clipjax.evals.suites import set_data
from tests.data import tars
from tests.evals import known_model

CLASSES = ("Archery", "Biking", "Diving")
GROUPS, CLIPS, FRAMES = 6, 3, 3
WIDTH = 8


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def features_of(keys):
    """A feature for each frame, which shows its class, its video and itself."""
    made = []
    for key in keys:
        name, video, frame = key.split("/")
        group = int(video.split("_g")[1][:2])
        rng = np.random.default_rng([CLASSES.index(name), group, int(video[-2:]), int(frame[0])])
        centre = 2.0 * np.eye(WIDTH)[CLASSES.index(name)] + (group - 3) * np.eye(WIDTH)[3] / 2
        made.append(centre + rng.normal(size=WIDTH))
    return np.array(made)


def keys_of(source):
    return [source.key(index) for index in range(len(source))]


def groups_tested(number):
    return (2 * number - 1, 2 * number)  # of split 1, 2 or 3


@pytest.fixture(scope="module")
def ucf101(tmp_path_factory):
    """54 videos of three frames, split 1 in folders, and the lists of all three splits."""
    top = tmp_path_factory.mktemp("ucf")
    lists = top / "ucf101" / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    videos = [
        (name, group, f"v_{name}_g{group:02}_c{clip:02}")
        for name in CLASSES
        for group in range(1, GROUPS + 1)
        for clip in range(1, CLIPS + 1)
    ]
    for name, group, video in videos:
        split = "test" if group in groups_tested(1) else "train"
        place = top / "ucf101" / split / name / video
        place.mkdir(parents=True)
        for frame in range(FRAMES):
            (place / f"{frame}.jpg").write_bytes(tars.picture(frame))
    for number in (1, 2, 3):
        tested = [v for v in videos if v[1] in groups_tested(number)]
        trained = [v for v in videos if v not in tested]
        (lists / f"testlist0{number}.txt").write_text(
            "".join(f"{name}/{video}.avi\n" for name, _, video in tested)
        )
        (lists / f"trainlist0{number}.txt").write_text(
            "".join(f"{name}/{video}.avi 1\n" for name, _, video in trained)
        )
    return str(top)


def entry(count=18):
    known = suites.get("ucf101")
    sizes = {"paper": suites.Expected(count, "top1_accuracy")}
    return dataclasses.replace(known, classes=3, protocols=sizes)


def on_ucf101(data, *, folds="ucf101/ucfTrainTestlist", weights=None):
    place = {"data": data, "image_size": 8}
    opened = set_data.open_set(entry(), **place)

    def images(_, source, **__):
        return unit(features_of(keys_of(source)))

    def features(part):
        source = part.source
        frames = [source.every.key(int(i)) for i in source.videos.middle]
        return features_of(frames)

    return known_model.on_set(
        opened,
        open_train=lambda: set_data.open_train(entry(), **place),
        features=features,
        weights=weights,
        folds_file=f"{data}/{folds}" if folds else "",
        embedder={"images": images},
    )


def middle_frames():
    """Features, labels and groups of all videos, by hand."""
    keys = [
        (name, group, f"{name}/v_{name}_g{group:02}_c{clip:02}/1.jpg")
        for name in CLASSES
        for group in range(1, GROUPS + 1)
        for clip in range(1, CLIPS + 1)
    ]
    labels = np.array([CLASSES.index(name) for name, _, _ in keys])
    return features_of([key for _, _, key in keys]), labels, np.array([g for _, g, _ in keys])


def test_videos_are_counted_by_their_middle_frames(ucf101):
    data = set_data.open_set(entry(), data=ucf101, image_size=8)
    assert (data.n, data.kind, data.agrees) == (18, "classification", ("paper",))
    assert data.source.key(0) == "Archery/v_Archery_g01_c01"
    assert data.source[0]["image"] == tars.picture(1) and data.source.label(17) == "Diving"
    assert len(data.source.every) == 54 and data.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    with pytest.raises(DataError, match=r"holds 18 videos where UCF101 has 17 \(paper\)"):
        set_data.open_set(entry(17), data=ucf101, image_size=8)
    with pytest.raises(set_data.Missing, match="put frames in DIR/ucf101/test/CLASS/VIDEO"):
        set_data.open_set(entry(), data="", image_size=8)


def test_a_probe_of_ucf101_is_the_mean_over_three_splits(ucf101, monkeypatch):
    one = 48  # the step of the grid at a penalty of 1: six validation videos choose any
    monkeypatch.setattr(penalty, "search", lambda value: (one, {one: value(one)}))
    on = on_ucf101(ucf101)
    made = linear_probe.measure(on)
    x, y, group = middle_frames()
    found = []
    for number in (1, 2, 3):
        tested = np.isin(group, groups_tested(number))
        fitted = LogisticRegression(C=1, max_iter=5000, tol=1e-8).fit(x[~tested], y[~tested])
        found.append(fitted.score(x[tested], y[tested]))
    assert made.main.value == pytest.approx(np.mean(found)) and 0.4 < made.main.value < 1
    assert len(set(found)) > 1 and made.details["folds"] == 3 and made.main.n == 18
    assert np.mean(made.arrays["rank"] == 0) == pytest.approx(
        found[0]
    )  # split 1 is what test holds
    alone = linear_probe.measure(on_ucf101(ucf101, folds=""))
    assert alone.main.value == pytest.approx(found[0]) and alone.details["folds"] == 1


def test_zero_shot_of_ucf101_is_the_mean_over_three_splits(ucf101):
    weights = unit(np.eye(3, WIDTH) + 0.4 * np.eye(WIDTH)[3])
    on = on_ucf101(ucf101, weights=weights)
    made = action.measure(on)
    x, y, group = middle_frames()
    right = np.argmax(unit(x) @ weights.T, axis=1) == y
    by_split = [np.mean(right[np.isin(group, groups_tested(k))]) for k in (1, 2, 3)]
    assert len(set(by_split)) > 1
    assert made.main.value == pytest.approx(np.mean(by_split))
    assert made.details == {"videos": 54, "frames": 162, "splits": 3}
    frames = [
        features_of([f"{name}/v_{name}_g{g:02}_c{c:02}/{k}.jpg" for k in range(FRAMES)])
        for name in CLASSES
        for g in range(1, GROUPS + 1)
        for c in range(1, CLIPS + 1)
    ]
    odds = [np.exp(10 * unit(each) @ weights.T) for each in frames]
    averaged = [np.mean(each / each.sum(axis=1, keepdims=True), axis=0) for each in odds]
    right = np.argmax(averaged, axis=1) == y
    by_split = [np.mean(right[np.isin(group, groups_tested(k))]) for k in (1, 2, 3)]
    assert made.figures["frame_averaged_top1_accuracy"].value == pytest.approx(np.mean(by_split))
    assert action.settings(on)["train"].endswith("[middle]")
    alone = action.measure(on_ucf101(ucf101, folds="", weights=weights))
    assert alone.details == {"videos": 18, "frames": 54} and alone.main.n == 18


def test_lists_that_do_not_fit_the_videos_are_told(ucf101, tmp_path):
    for file in ("trainlist01.txt", "testlist01.txt"):
        (tmp_path / file).write_text("Archery/v_Archery_g09_c01.avi 1\n")
    on = on_ucf101(ucf101, folds="")
    on.folds_file = str(tmp_path)
    with pytest.raises(DataError, match="1 of its 1 videos are not in the data, such as"):
        linear_probe.measure(on)
    (tmp_path / "trainlist01.txt").unlink()
    with pytest.raises(DataError, match=r"trainlist01\.txt: cannot be read"):
        linear_probe.measure(on)


ACTIONS = [
    ("cut", "phone"),
    ("cut", "egg"),
    ("hammer", "phone"),
    ("drink", "egg"),
    ("peel", "keys"),
]


def annotated(count=160, *, seed=0):
    """Rows of rareact.csv; the last action is never shown."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        action = int(rng.integers(5))
        given = int(rng.choice([0, 0, 1, 2, 3, 4])) if action < 4 else 0
        rows.append((number, f"video{rng.integers(25)}", action, *ACTIONS[action], given))
    return rows


def write(path, rows):
    lines = [f"{i},{v},0,10,{c},{verb},{noun},{given}" for i, v, c, verb, noun, given in rows]
    head = "id,video_id,start,end,class_id,verb,noun,annotation"
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def groups_by_hand(rows, verb, noun):
    """Right, hard and other wrong rows of an action, as the data set's authors define them."""
    right, hard, other = [], [], []
    for index, (_, _, _, v, n, given) in enumerate(rows):
        if (v, n) == (verb, noun):
            {0: other, 1: right}.get(given, hard).append(index)
        elif given == 1:
            (hard if v == verb or n == noun else other).append(index)
    return right, hard, other


def test_weighted_average_precision_is_that_of_scikit_learn(tmp_path):
    rows = annotated()
    known = rare_actions.read(write(tmp_path / "r.csv", rows), keys=[str(r[0]) for r in rows])
    assert known.keys == ("cut phone", "cut egg", "hammer phone", "drink egg", "peel keys")
    scores = np.round(np.random.default_rng(1).normal(size=(160, 5)), 1)  # with ties
    scores[:, 0] += 0.8 * np.isin(np.arange(160), groups_by_hand(rows, "cut", "phone")[0])
    found = rare_actions.mean_average_precisions(scores, known)
    expected, sampled = [], []
    for number, (verb, noun) in enumerate(ACTIONS[:4]):
        groups = groups_by_hand(rows, verb, noun)
        assert all(groups)
        chosen, weights, labels = [], [], []
        for kind, group in enumerate(groups):
            videos = [rows[i][1] for i in group]
            chosen += group
            weights += [1 / videos.count(v) for v in videos]
            labels += [kind == 0] * len(group)
        values = scores[chosen, number]
        expected.append(average_precision_score(labels, values, sample_weight=weights))
        rng, drawn = np.random.default_rng(2), []
        for _ in range(400):
            one = {}
            for kind, group in enumerate(groups):
                for i in rng.permutation(group):
                    one[kind, rows[i][1]] = i
            draw = [scores[i, number] for i in one.values()]
            drawn.append(average_precision_score([kind == 0 for kind, _ in one], draw))
        sampled.append(np.mean(drawn))
    weighted = found["mwap"]
    assert weighted.value == pytest.approx(np.mean(expected)) and weighted.n == 160
    assert 0 < weighted.low < weighted.value < weighted.high < 1
    assert found["mwsap"].value == pytest.approx(np.mean(sampled), abs=0.01)
    assert found["mwsap"].low < found["mwsap"].value < found["mwsap"].high
    perfect = np.stack([rare_actions.roles(known, k) == 1 for k in range(5)], axis=1)
    best = rare_actions.mean_average_precisions(1.0 * perfect, known)
    assert best["mwap"].value == best["mwsap"].value == 1
    nothing = rare_actions.mean_average_precisions(np.full((160, 5), np.nan), known)
    alike = rare_actions.mean_average_precisions(np.zeros((160, 5)), known)
    assert nothing["mwap"].value == pytest.approx(alike["mwap"].value) and best["mwap"].n == 160


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("annotation", "given", r"needs the columns id, .*\('annotation'\)"),
        ("0,10,", "0,10,x", "with whole numbers"),
        ("phone,1", "phone,7", "annotations .*7.*, not 0"),
        ("\n3,", "\n300,", r"1 of its 160 segments are not in the data, such as id 300; name"),
        ("0,10,2,", "0,10,9,", "one verb and noun have several class_ids"),
    ],
)
def test_annotations_that_cannot_be_used(tmp_path, old, new, told):
    rows = annotated()
    file = write(tmp_path / "rareact.csv", rows)
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=told) as caught:
        rare_actions.read(file, keys=[str(r[0]) for r in rows])
    assert "\n" not in str(caught.value)


def test_rare_actions_by_middle_and_by_all_frames(tmp_path, monkeypatch):
    rows = annotated(40)
    for number, *_ in rows:
        for frame in range(2):
            file = tmp_path / "rareact" / "test" / str(number) / f"{frame}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(tars.picture(frame))
    sizes = {"paper": suites.Expected(40, "frame_averaged_mwap")}
    known = dataclasses.replace(suites.get("rareact"), protocols=sizes)
    data = set_data.open_set(known, data=str(tmp_path), image_size=8)
    assert (data.kind, data.n, data.metric) == ("segments", 40, "frame_averaged_mwap")

    def shown(key):
        segment, frame = key.split("/")
        _, _, action, _, _, given = rows[int(segment)]
        if frame == "0.jpg" and given == 1:  # the first of two frames shows it, the second nothing
            return np.eye(6)[action]
        return np.eye(6)[5]

    def images(_, source, **__):
        return np.array([shown(key) for key in keys_of(source)], np.float32)

    asked = []

    def classifier_of(given):
        asked.append(given)
        return Classifier(np.eye(5, 6, dtype=np.float32), np.eye(5, 6))

    on = known_model.on_set(data, folder=str(tmp_path), embedder={"images": images})
    monkeypatch.setattr(on, "classifier_of", classifier_of)
    with pytest.raises(set_data.Missing, match=r"rareact\.csv is not there"):
        rare_actions.settings(on)
    write(tmp_path / "rareact" / "rareact.csv", rows)
    made = rare_actions.measure(on)
    assert made.main.value == made.figures["frame_averaged_mwsap"].value == 1
    assert made.figures["mwap"].value < 0.5  # the middle one of two frames is the second
    assert made.details == {"segments": 40, "frames": 80, "actions": 5}
    texts = asked[0].texts()[0]
    assert texts[0] == "a photo of a person trying to cut a phone." and len(texts) == 15
    assert "how to drink an egg." in texts and "how to peel keys." in texts
    before = rare_actions.settings(on)
    (tmp_path / "p.json").write_text('{"templates": ["{}!"], "names": {"cut phone": "cut"}}')
    on.prompts_file = str(tmp_path / "p.json")
    with pytest.raises(ConfigError, match=r"without names: 4 \('cut egg'"):
        rare_actions.settings(on)
    on.prompts_file = ""
    write(tmp_path / "rareact" / "rareact.csv", [(*r[:5], 1 - min(r[5], 1)) for r in rows])
    assert rare_actions.settings(on)["annotations"] != before["annotations"]
