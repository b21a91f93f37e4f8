"""Every protocol of `clipjax.evaluate` on data that packages ship, with quickstart's model.

    python -m clipjax.main --config=configs/quickstart.py --workdir=runs/quickstart
    PYTHONPATH=. python tests/bench/every_protocol.py --workdir=runs/quickstart --output=every

Each protocol finds the kind of data it needs in the layout it needs, made of quickstart's objects:
single ones for classes and probes, the same in another drawing for shifts, several of a kind for
frames of a video, objects with a home for places, with a list of names for words, colours for
associations. Whether a figure is plausible is seen at once: chance stands beside it. The report is
OUTPUT/every/report.html; the last line is JSON.
"""

import argparse
import csv
import dataclasses
import json
import pathlib
import random
import tempfile

from clipjax import evaluate
from clipjax.data.sources import noto, scenes
from clipjax.evals import suites

CLASSES = tuple(name.replace(" ", "_") for name in scenes.Objects.labels)
KIND = dict(zip(CLASSES, scenes.OBJECTS, strict=True))
SIZE = 64
FRAMES = 4  # of a video


def objects(*, seed, length, source=scenes.Objects):
    """(place in the order, class, background, JPEG) of single objects; classes without spaces."""
    made = source(seed=seed, image_size=SIZE, length=length)
    backgrounds = scenes.Objects(seed=seed, image_size=SIZE, length=length)
    for index in range(length):
        yield (
            index,
            CLASSES[index % len(CLASSES)],
            backgrounds.describe(index)[1],
            made[index]["image"],
        )


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content) if isinstance(content, bytes) else file.write_text(content)


def table(file, head, rows):
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([head, *rows])


def by_class(folder, *, seed, length, kept=CLASSES, source=scenes.Objects):
    """DIR/CLASS/INDEX.jpg."""
    for index, name, _, image in objects(seed=seed, length=length, source=source):
        if name in kept:
            write(folder / name / f"{index:05}.jpg", image)


def videos(folder, *, seed, length):
    """DIR/CLASS/VIDEO/FRAME.jpg: a video's frames show one kind of object; lists the videos."""
    found = []
    for index, name, _, image in objects(seed=seed, length=length):
        round_ = index // len(CLASSES)
        video = f"v_{name.replace('_', '')}_g{round_ // FRAMES + 1:02}_c01"
        write(folder / name / video / f"{round_ % FRAMES + 1:03}.jpg", image)
        found.append(f"{name}/{video}")
    return sorted(set(found))


def make_imagenet_and_shifts(data):
    by_class(data / "imagenet" / "test", seed=1, length=640)
    by_class(data / "imagenet_sketch" / "test", seed=1, length=640, source=noto.NotoObjects)
    by_class(
        data / "imagenet_r" / "test", seed=2, length=640, kept=CLASSES[::2], source=noto.NotoObjects
    )
    videos(data / "imagenet_vid" / "test", seed=3, length=640)
    anchors = sorted((data / "imagenet_vid" / "test").glob("*/*/002.jpg"))
    lines = [str(file.relative_to(data / "imagenet_vid" / "test")) for file in anchors]
    write(data / "imagenet_vid" / "anchors.txt", "\n".join(lines))


def make_actions(data):
    """Four groups of videos; three official splits of them, the first in test and train."""
    tested, trained = (
        videos(data / "ucf101" / part, seed=seed, length=640)
        for part, seed in (("test", 4), ("train", 5))
    )
    renamed = [name.replace("_c01", "_c02") for name in trained]
    for old, new in zip(trained, renamed, strict=True):
        (data / "ucf101" / "train" / old).rename(data / "ucf101" / "train" / new)
    for number in (1, 2, 3):
        part = tested if number == 1 else renamed[number - 2 :: 2]
        rest = [name for name in (*tested, *renamed) if name not in part]
        for kind, names in (("test", part), ("train", rest)):
            lines = "".join(f"{name}.avi\n" for name in names)
            write(data / "ucf101" / "ucfTrainTestlist" / f"{kind}list0{number}.txt", lines)


def make_rare_actions(data, prompts):
    """An object on a background: the colour is the verb, the object the noun."""
    rows, names = [], {}
    for index, name, color, image in objects(seed=6, length=320):
        write(data / "rareact" / "test" / str(index) / "001.jpg", image)
        noun = name.replace("_", "-")
        names[f"{color} {noun}"] = f"{KIND[name].phrase} on a {color} background"
        rows.append((index, f"v{index}", len(names), color, noun, 1))
    head = ("id", "video_id", "class_id", "verb", "noun", "annotation")
    table(data / "rareact" / "rareact.csv", head, rows)
    write(prompts / "rareact.json", json.dumps({"names": names, "templates": ["{}"]}))


def make_places(data):
    """Every object has a home, and is seen within a few kilometres of it."""
    choose, rows = random.Random(0), []
    homes = {name: (choose.uniform(-60, 60), choose.uniform(-180, 180)) for name in CLASSES}
    for part, seed in (("test", 7), ("train", 8)):
        for index, name, _, image in objects(seed=seed, length=640):
            key = f"photos/{part}{index:05}.jpg"
            write(data / "places" / part / key, image)
            rows.append((key, *(degrees + choose.uniform(-0.1, 0.1) for degrees in homes[name])))
    table(data / "places" / "places.csv", ("image", "latitude", "longitude"), rows)


def make_words(data):
    """The name of what is seen, among twenty."""
    choose, rows = random.Random(1), []
    for index, name, _, image in objects(seed=9, length=320):
        key = f"words/{index:05}.jpg"
        write(data / "iiit5k" / "test" / key, image)
        others = choose.sample([other for other in CLASSES if other != name], 19)
        words = [word.replace("_", "-") for word in (name, *others)]
        rows.append((key, words[0], " ".join(sorted(words))))
    table(data / "iiit5k" / "words.csv", ("image", "word", "lexicon"), rows)


def make_associations(data):
    """A cue is an object; two of ten pictures show it."""
    choose, seen = random.Random(2), {name: [] for name in CLASSES}
    for index, name, _, image in objects(seed=10, length=160):
        write(data / "winogavil" / "winogavil_images" / f"{index}.jpg", image)
        seen[name].append(str(index))
    rows = []
    for name, files in seen.items():
        others = [file for other, many in seen.items() if other != name for file in many]
        candidates = [*files[:2], *choose.sample(others, 8)]
        choose.shuffle(candidates)
        rows.append((name.replace("_", " "), json.dumps(candidates), json.dumps(files[:2])))
    table(data / "winogavil" / "winogavil_dataset.csv", ("cue", "candidates", "associations"), rows)


def make(data, prompts):
    """All data, and prompts where label keys are not the names."""
    make_imagenet_and_shifts(data)
    make_actions(data)
    make_rare_actions(data, prompts)
    make_places(data)
    make_words(data)
    make_associations(data)
    for part, seed in (("test", 11), ("train", 12)):
        by_class(data / "kinds" / part, seed=seed, length=1280)
    named = {"names": {n: KIND[n].phrase for n in CLASSES}, "templates": ["{}", "a photo of {}"]}
    for name in ("imagenet", "imagenet_sketch", "imagenet_r", "imagenet_vid", "ucf101", "kinds"):
        kept = CLASSES[::2] if name == "imagenet_r" else CLASSES
        own = {**named, "names": {key: named["names"][key] for key in kept}}
        write(prompts / f"{name}.json", json.dumps(own))


def suite(data):
    """Registered sets cut to the size of what is here, and sets of our own."""

    def sized(name, n, classes, *run):
        entry = suites.entries()[name]
        metric = next(iter(entry.protocols.values())).metric if entry.protocols else ""
        sizes = {"here": suites.Expected(n, metric)}
        return dataclasses.replace(entry, protocols=sizes, classes=classes, run=run)

    return suites.Suite(
        "every",
        (
            sized("imagenet", 640, 40, "zero_shot", "robustness"),
            sized("imagenet_sketch", 640, 40, "zero_shot"),
            sized("imagenet_r", 320, 20, "zero_shot"),
            sized("imagenet_vid", 640, 40, "zero_shot", "pm_k"),
            sized("ucf101", 160, 40, "action", "linear_probe"),
            sized("rareact", 320, 0, "rare_actions"),
            sized("iiit5k", 320, 1, "lexicon"),
            sized("winogavil", 40, 0, "associations"),
            suites.own(
                "places",
                path=f"{data}/places/test",
                train_path=f"{data}/places/train",
                run=("geolocation",),
            ),
            suites.own(
                "kinds",
                path=f"{data}/kinds/test",
                train_path=f"{data}/kinds/train",
                run=("zero_shot", "linear_probe", "few_shot"),
            ),
            suites.own("scenes", source="scenes", run=("retrieval",)),
        ),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--output", default="every")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, prompts = pathlib.Path(folder, "data"), pathlib.Path(folder, "prompts")
        make(data, prompts)
        chosen = suite(data)
        small = {**suites.entries(), **{entry.id: entry for entry in chosen.entries}}
        suites.entries = lambda: small  # the shifts of ImageNet are looked up there
        suites.find = lambda name: chosen
        evaluate.run(
            "",
            weights=given.workdir,
            suite="every",
            output=given.output,
            data=str(data),
            prompts=str(prompts),
        )
    found = {}
    for file in sorted(pathlib.Path(given.output, "every").glob("*.json")):
        record = json.loads(file.read_text())
        for protocol, made in record.get("measurements", {}).items():
            figure = made["figures"][made["metric"]]
            chance = made["details"].get("chance")
            found[f"{file.stem} {protocol}"] = {made["metric"]: figure["value"], "chance": chance}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
