"""Protocols with data of a shape of their own: robustness, places, words, associations.

`protocols` lists them, `runner` calls them. What they need besides images lies in the set's folder,
DIR/SET: `imagenet_classes.json`, `anchors.txt`, `places.csv`, `words.csv`; without it they are
left out, and the runner says so.
"""

import csv
import io
import json
import os
from typing import Any

import numpy as np
from etils import epath

from clipjax.common.exits import ConfigError, DataError
from clipjax.evals import class_scores, suites
from clipjax.evals.protocols import associations, geolocation, robustness, zero_shot
from clipjax.evals.protocols import lexicon as ocr
from clipjax.evals.suites import set_data
from clipjax.evals.suites.evaluated_model import OnSet
from clipjax.evals.suites.results import Measurement

Arrays = dict[str, np.ndarray]
WORD = 'a photo of the word "{}".'  # text to be read stands in quotes (paper, section 3.1.4)


def robustness_settings(on: OnSet) -> dict[str, Any]:
    """Prompts, and the classes of each shift whose data are there."""
    return {"prompts": on.prompts.hash, "shifts": {k: sorted(v) for k, v in _maps(on).items()}}


def measure_robustness(on: OnSet) -> tuple[Measurement, Arrays]:
    """Accuracy on ImageNet restricted to the classes of each shift: what effective robustness
    compares with. The shifts' own accuracies are their sets' zero-shot figures."""
    maps = _maps(on)
    if not maps:
        raise set_data.Missing(f"{on.data.where}: no data of a shift of it are there")
    scores = zero_shot.cosines(on.image_embed, on.classifier.ensemble, mesh=on.subject.mesh)
    figures = {"top1_accuracy": class_scores.measure("top1_accuracy", scores, on.data.labels)}
    for shift, classes in maps.items():
        groups = robustness.groups_of(classes, keys=on.data.keys, where=shift)
        pooled, labels = robustness.on_classes(scores, on.data.labels, groups)
        figures[f"on_{shift}"] = class_scores.measure("top1_accuracy", pooled, labels)
    return Measurement(
        "top1_accuracy", figures, {"classes": {k: len(v) for k, v in maps.items()}}
    ), {}


def _maps(on: OnSet) -> dict[str, dict[str, Any]]:
    """Shift → its label keys → wnids; of a shift that names classes itself, out of its file."""
    found: dict[str, dict[str, Any]] = {}
    for shift in robustness.SHIFTS if on.data.entry.id == "imagenet" else ():
        entry = suites.entries()[shift]
        try:
            opened = set_data.open_set(entry, data=on.folder, image_size=on.subject.image_size)
        except (set_data.Missing, ConfigError, DataError):
            continue
        file = epath.Path(on.folder) / shift / "imagenet_classes.json"
        if file.exists():
            found[shift] = json.loads(file.read_text())
        elif set(opened.keys) <= set(on.data.keys):
            found[shift] = {key: key for key in opened.keys}
    return found


def places_settings(on: OnSet) -> dict[str, Any]:
    """The references."""
    try:
        return {"references": on.open_train().source.fingerprint}
    except set_data.Missing:
        return {"references": ""}


def measure_geolocation(on: OnSet) -> tuple[Measurement, Arrays]:
    """The place of the nearest reference, the training split; places of both in `places.csv`."""
    file, train = beside(on, "places.csv"), on.open_train()
    truth = geolocation.read_degrees(file, keys=keys_of(on))
    references = geolocation.read_degrees(
        file, keys=[train.source.key(index) for index in range(train.n)]
    )
    subject = on.subject
    reference_embed = subject.embedder.images(
        subject.variables, train.source, image_size=subject.image_size, poll=on.poll
    )
    found = geolocation.places(
        on.image_embed,
        reference_embed=reference_embed,
        reference_degrees=references,
        mesh=subject.mesh,
    )
    distances = geolocation.distances_km(found, truth)
    figures = geolocation.shares_within(distances)
    known = distances[np.isfinite(distances)]
    details = {"references": train.n, "median_km": float(np.median(known)) if len(known) else None}
    return Measurement("within_25_km", figures, details), {"distance_km": distances}


def words_settings(on: OnSet) -> dict[str, Any]:
    """The prompt."""
    return {"template": WORD}


def measure_lexicon(on: OnSet) -> tuple[Measurement, Arrays]:
    """Words out of each image's own list (IIIT5K): `words.csv` with image, word, lexicon."""
    file = beside(on, "words.csv")
    lines = {line.get("image"): line for line in csv.DictReader(io.StringIO(file.read_text()))}
    try:
        own = [lines[key] for key in keys_of(on)]
        truths = [line["word"] for line in own]
        lexicons = [line["lexicon"].split() for line in own]
    except (KeyError, AttributeError) as error:
        raise DataError(
            f"{file}: write a CSV with a header image,word,lexicon, the words of the list between"
            f" spaces, and a line for each image ({error})"
        ) from None
    words = sorted({word.casefold() for lexicon in lexicons for word in lexicon})
    subject = on.subject
    word_embed = subject.embedder.texts(
        subject.variables,
        [WORD.replace("{}", word) for word in words],
        tokenizer=subject.tokenizer,
        poll=on.poll,
    )
    found = ocr.lexicon_accuracy(
        on.image_embed, word_embed, words=words, truths=truths, lexicons=lexicons
    )
    return Measurement("lexicon_accuracy", {"lexicon_accuracy": found}, {"words": len(words)}), {}


def associations_settings(on: OnSet) -> dict[str, Any]:
    """The prompt, and the metric."""
    return {"prompt": associations.prompt("cue"), "metric": on.data.metric}


def measure_associations(on: OnSet) -> tuple[Measurement, Arrays]:
    """The candidates that each cue calls to mind (WinoGAViL)."""
    cues, subject = on.data.source.cues, on.subject
    cue_embed = subject.embedder.texts(
        subject.variables,
        [associations.prompt(cue.text) for cue in cues],
        tokenizer=subject.tokenizer,
        poll=on.poll,
    )
    found = associations.jaccards(on.image_embed, cue_embed, cues=cues)
    chance = associations.means(associations.chances(cues), cues=cues)[on.data.metric].value
    details = {"cues": len(cues), "chance": chance}
    return Measurement(on.data.metric, associations.means(found, cues=cues), details), {}


def keys_of(on: OnSet) -> list[str]:
    """The keys of all images."""
    return [on.data.source.key(index) for index in range(on.data.n)]


def beside(on: OnSet, name: str) -> Any:
    """A file in the set's folder, or beside the images of a set with a path of its own."""
    entry = on.data.entry
    folder = os.path.dirname(entry.path.rstrip("/")) if entry.path else f"{on.folder}/{entry.id}"
    for place in (entry.path, folder) if entry.path else (folder,):
        file = epath.Path(place) / name
        if file.exists():
            return file
    raise set_data.Missing(f"{folder}/{name} is not there")
