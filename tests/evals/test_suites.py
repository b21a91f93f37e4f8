"""The registry: its facts hang together, and every TFDS entry opens without TensorFlow."""

import importlib.resources
import inspect
import pathlib
import re

import numpy as np
import pytest

from clipjax.common.exits import ConfigError
from clipjax.data.source import Source
from clipjax.data.sources import tfds as tfds_sources
from clipjax.evals import class_names, suites
from clipjax.evals.suites import set_data
from tests.data import tars

tfds = pytest.importorskip("tensorflow_datasets")
WITH_TFDS = [entry for entry in suites.entries().values() if entry.tfds]
NEEDS_TENSORFLOW = {"mscoco"}  # to be built; prepared files need no code of the set


def test_suites_have_as_many_sets_as_their_names_say():
    sizes = {name: len(suites.find(name).entries) for name in suites.SUITES}
    assert sizes == {
        "paper27": 27,
        "paper27_probes": 27,
        "paper_zero_shot": 41,
        "robustness": 8,
        "retrieval": 2,
        "datacomp38": 38,
    }
    for name in suites.SUITES:
        suites.check(suites.find(name), where=name)


def test_published_numbers_are_of_registered_sets_and_metrics():
    seen = 0
    for protocol in ("zero_shot", "linear_probe"):
        for source, models in suites.published()[protocol].items():
            for model, sets in models.items():
                for key, values in sets.items():
                    entry = suites.get(key)
                    assert source in entry.protocols or key in (
                        "imagenet_vid",
                        "youtube_bb",
                        "iiit5k",
                    ), (source, key)
                    assert all(0 <= value <= 1 for value in values.values())
                    if source in entry.protocols:
                        assert entry.protocols[source].metric in values, (model, key)
                    seen += 1
    assert seen > 800
    found = suites.reported(suites.get("imagenet"), protocol="zero_shot", model="ViT-B/32")
    assert found == {"paper": {"top1_accuracy": 0.632}, "open_clip": {"top1_accuracy": 0.6332}}
    # the mean that open_clip prints is that of the 38 columns
    models = suites.published()["zero_shot"]["open_clip"]
    for model, mean in suites.published()["average_of_38"]["open_clip"].items():
        values = [
            models[model][key][suites.get(key).protocols["open_clip"].metric]
            for key in suites.DATACOMP_38
        ]
        assert np.mean(values) == pytest.approx(mean, abs=2e-4), model


def test_unknown_suites_and_files_are_told(tmp_path):
    with pytest.raises(ConfigError, match=r'did you mean "paper27"'):
        suites.find("paper72")
    with pytest.raises(ConfigError, match="no such file"):
        suites.find("nowhere.py")
    for content, told in (
        ("x = 1", "KeyError: 'get_suite'"),
        ("def get_suite(): return 3", "must return a suites.Suite"),
        ("from clipjax.evals import suites\ndef get_suite(): return suites.Suite('x', ())",
         "holds no sets"),
        ("from clipjax.evals import suites\ne = suites.own('a', path='x')\n"
         "def get_suite(): return suites.Suite('x', (e, e))", 'set "a" needs a name of its own'),
        ("from clipjax.evals import suites\ne = suites.own('a', path='x', run=('zeroshot',))\n"
         "def get_suite(): return suites.Suite('x', (e,))", r'did you mean "zero_shot"'),
        ("from clipjax.evals import suites\ndef get_suite(): return suites.get('imagnet')",
         r'did you mean "imagenet"'),
    ):  # fmt: skip
        (tmp_path / "s.py").write_text(content)
        with pytest.raises(ConfigError, match=told) as caught:
            suites.find(str(tmp_path / "s.py"))
        assert "\n" not in str(caught.value)


def names_of_prompts(entry, keys):
    """What the wheel would hold: the keys' own words where names are joined by name."""
    join = entry.prompts.get("join")
    if join == "name":
        aliases = entry.prompts.get("aliases", {})
        return [aliases.get(key, key) for key in sorted(keys)]
    return [f"name {i}" for i in range(1000 if join == "wnid" else len(keys))]


class Records(Source):
    """What a prepared set serves: encoded images, and each feature of labels."""

    name = "prepared"

    def __init__(self, entry, classes):
        self.entry, self.classes = entry, classes

    def __len__(self):
        return max(self.classes, 8)

    def __getitem__(self, index):
        label = self.entry.tfds.get("label", "")
        several = label in ("labels_no_difficult", "real_label")
        objects = {
            "type": np.array([4, index % 3]),
            "location": np.array([[0, 0, 1.0], [0, 0, 5.0 + index]]),
            "size": np.zeros(3 + index % 8),
            "pixel_coords": np.array([[0, 0, 9.2], [0, 0, 8.0 + index / 4]]),
        }
        place = index % self.classes
        return {
            "image": tars.picture(index),
            label: [place, (place + 1) % self.classes] if several else place,
            "labels": [place, (place + 2) % self.classes],
            "objects": objects,
        }


@pytest.mark.parametrize("entry", WITH_TFDS, ids=lambda entry: entry.id)
def test_tfds_entries_open_offline_and_their_prompts_join(entry, monkeypatch):
    if entry.id in NEEDS_TENSORFLOW:
        pytest.skip("needs TensorFlow to be built; see tests/data/test_tfds.py")
    builder = tfds.builder(entry.tfds["name"])
    assert bool(entry.validation) == ("validation" in entry.tfds)
    for split in {entry.tfds[k] for k in ("test", "train", "validation") if k in entry.tfds}:
        for part in split.split("+"):
            assert has_split(builder, part.split("[")[0]), (entry.id, part)
    asked = {}

    def as_data_source(self, *arguments, **options):
        asked.update(options)
        return Records(entry, entry.classes)

    options = {k: v for k, v in entry.tfds.items() if k in ("label", "also", "recipe")}
    with tfds.testing.mock_data(as_data_source_fn=as_data_source):
        source = tfds_sources.TfdsLabelled(entry.tfds["name"], split=entry.tfds["test"], **options)
    assert asked["split"] == entry.tfds["test"]
    assert isinstance(asked["decoders"]["image"], type(tfds.decode.SkipDecoding()))
    data = set_data.SetData(entry, source, "mocked", "classification", "test", ())
    assert len(data.keys) == entry.classes
    if source.kind == "multilabel":
        positive, ignored = data.targets
        assert positive.sum(axis=1).tolist() == [2] * len(source)
        assert ignored.any() == (entry.id == "voc2007")
    else:
        labels = data.labels
        assert len(np.unique(labels)) > 1 and source[1]["label"] == data.keys[labels[1]]
    check_prompts(entry, source, data.keys, monkeypatch)


def check_prompts(entry, source, keys, monkeypatch):
    wheel = {"version": "0", "names": {}, "templates": {}}
    if entry.prompts:
        wheel["templates"][entry.prompts["templates"]] = ["a {c}."]
        if "names" in entry.prompts:
            wheel["names"][entry.prompts["names"]] = names_of_prompts(entry, keys)
    monkeypatch.setattr(class_names, "wheel_content", lambda: wheel)
    if entry.keys_are_words and "names" not in entry.prompts and all(map(str.isdigit, keys)):
        with pytest.raises(ConfigError, match="are no words"):  # names come with prepared files
            class_names.of_set(entry, source=source, keys=keys)
        return
    made, _ = class_names.of_set(entry, source=source, keys=keys)
    assert made.keys == keys and made.templates == ("a {}.",)
    if entry.prompts.get("join") == "wnid":
        everything = class_names.imagenet_wnids()
        assert [names[0] for names in made.names] == [f"name {everything.index(k)}" for k in keys]


def has_split(builder, split):
    """Whether the builder's code, or what it shares with others, names the split."""
    modules = [inspect.getmodule(cls) for cls in type(builder).__mro__[:3]]
    files = [pathlib.Path(module.__file__) for module in modules if module]
    texts = [file.read_text() for file in files]
    shared = importlib.resources.files(tfds).joinpath("datasets/imagenet2012/imagenet_common.py")
    texts.append(shared.read_text())
    wanted = rf"[\"']{split}[\"']|Split\.{split.upper()}\b|\b{split}="
    return any(re.search(wanted, text) for text in texts)


def test_recipes_are_vtabs():
    kitti = {"objects": {"type": np.array([0, 3]), "location": np.array([[0, 0, 8.5], [0, 0, 1]])}}
    assert tfds_sources.kitti_distance(kitti) == "1"
    kitti["objects"]["type"] = np.array([5, 3])
    assert tfds_sources.kitti_distance(kitti) == "3"
    clevr = {"objects": {"size": np.zeros(7), "pixel_coords": np.array([[0, 0, 8.5], [0, 0, 9]])}}
    assert tfds_sources.clevr_count(clevr) == "7"
    assert tfds_sources.clevr_distance(clevr) == "1"


@pytest.mark.skipif(class_names.wheel_content() is None, reason="clip-benchmark is not installed")
@pytest.mark.parametrize("entry", WITH_TFDS, ids=lambda entry: entry.id)
def test_prompts_of_the_real_wheel_join(entry):
    if entry.id in NEEDS_TENSORFLOW or not entry.prompts:
        pytest.skip("no classes")
    if "recipe" in entry.tfds:
        keys = tfds_sources.RECIPES[entry.tfds["recipe"]][1]
    else:
        feature = tfds.builder(entry.tfds["name"]).info.features[entry.tfds["label"]]
        keys = tuple(getattr(feature, "feature", feature).names)
    if "names" not in entry.prompts and all(map(str.isdigit, keys)):
        pytest.skip("names come with prepared files")
    if entry.subset:
        keys = keys[:200]
    made, origin = class_names.of_set(entry, source=Records(entry, 2), keys=keys)
    assert made.keys == keys and "clip-benchmark" in origin


Records.name = "records"


@pytest.mark.parametrize("flag", ["data", "prompts"])
def test_a_named_folder_that_is_not_there_is_no_folder_without_sets(flag, tmp_path):
    suites.Options(**{flag: str(tmp_path)})
    suites.Options(**{flag: "gs://bucket/sets"})  # asked when it is read
    with pytest.raises(ConfigError, match=f"--{flag}=.*typo: no such folder"):
        suites.Options(**{flag: str(tmp_path / "typo")})
