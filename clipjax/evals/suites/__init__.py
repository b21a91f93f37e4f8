"""The registry of evaluation sets, and suites of them: what `evaluate --suite=NAME` runs.

Facts of the sets stand in `sets.json`, published results in `published.json`, each with its
source. A suite is one of `SUITES`, or a Python file, the user's or one of `configs/evals`, with a
function `get_suite()`:

    from clipjax.evals import suites

    def get_suite():
        return suites.Suite("nightly", (suites.get("pets"), suites.own("mine", path="DIR")))
"""

import dataclasses
import functools
import importlib.resources
import json
import os
import re
import runpy
from collections.abc import Iterable, Mapping
from typing import Any

from clipjax.common import lists, shipped
from clipjax.common.exits import ConfigError
from clipjax.common.registry import check_name
from clipjax.data import sources
from clipjax.evals.protocols import registry

PROTOCOLS = registry.IN_SUITES
FILE_NAME = re.compile(r"(?!\.+$)[^/\\\s]([^/\\\x00\n\r]*[^/\\\s])?")


@dataclasses.dataclass(frozen=True)
class Expected:
    """The size of a set in somebody's protocol, and the metric that belongs to it."""

    n: int
    metric: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """An evaluation set.

    Attributes:
      id: its name in the registry and its folder among the data.
      name: for people; open_clip's column where it has one.
      classes: how many there must be; 0 is unknown, or not a matter of classes.
      protocols: "paper", "open_clip", "vtab", … → Expected. Data of any other size are refused.
      validation: images of the official validation split, which a probe's penalty is searched on;
        0 is none, and a part of the training split stands for it.
      tfds: name, test, train, validation, and label, recipe, also or text (`sources.tfds`); {} is
        none.
      folders: where the WebDataset layout of it is looked for, below the data's folder.
      table: of cues, candidates and associations, a file in the set's folder, in place of folders
        by split (`data.sources.associations`).
      prompts: templates, names, join, aliases (`class_names.from_wheel`).
      keys_are_words: whether label keys can stand in a prompt: wnids and numbers cannot.
      paper_prompts: "other" where the published prompts that are to be had are not the paper's.
      group_column: of the .npy beside a class, for worst-group metrics.
      subset: the data use some of ImageNet's 1,000 classes, and only those compete.
      get: where to get it in the WebDataset layout.
      home: the owners' page.
      note: what to know when reading its numbers.
      path, split: of a set of the user's own: a folder of images by class, a WebDataset folder, a
        CSV, TSV or JSON-lines file; or `source`, a name of `data.sources`.
      image_key, text_key: of the same, with `source`.
      prompts_file: of a set of the user's own, see `class_names.read`.
      train_path: what a linear probe is fitted on.
      validation_path: what its penalty is searched on; "" is a part of the training split.
      folds: file or folder of official folds or splits, in the set's folder (`evals.probe.folds`).
      video_parts: how many parts of an image's path name the video that it is a frame of: 2 is
        CLASS/VIDEO/FRAME.jpg, 1 VIDEO/FRAME.jpg; 0 where images are no frames.
      metric: of a set of the user's own.
      run: protocols for this set; () takes the suite's.
    """

    id: str
    name: str
    classes: int = 0
    protocols: Mapping[str, Expected] = dataclasses.field(default_factory=dict)
    validation: int = 0
    tfds: Mapping[str, str] = dataclasses.field(default_factory=dict)
    folders: tuple[str, ...] = ()
    table: str = ""
    prompts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    keys_are_words: bool = True
    paper_prompts: str = ""
    group_column: int | None = None
    subset: bool = False
    get: str = ""
    home: str = ""
    note: str = ""
    path: str = ""
    source: str = ""
    split: str = "test"
    image_key: str = ""
    text_key: str = ""
    prompts_file: str = ""
    train_path: str = ""
    validation_path: str = ""
    folds: str = ""
    video_parts: int = 0
    metric: str = ""
    run: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "run", protocol_names(self.run))

    @property
    def sizes(self) -> dict[str, int]:
        """The number of images by protocol."""
        return {name: expected.n for name, expected in self.protocols.items()}


@dataclasses.dataclass(frozen=True)
class Suite:
    """Sets, and the protocols that each is run through."""

    name: str
    entries: tuple[Entry, ...]
    run: tuple[str, ...] = ("zero_shot",)

    def __post_init__(self):
        """One set, or one protocol, stands for a list of one."""
        sets = (self.entries,) if isinstance(self.entries, Entry) else tuple(self.entries)
        object.__setattr__(self, "entries", sets)
        object.__setattr__(self, "run", protocol_names(self.run))


@dataclasses.dataclass(frozen=True)
class Options:
    """How a suite is run.

    Attributes:
      data: folder of the sets, see `set_data`; "" where all have a path of their own.
      prompts: folder of the user's prompts, SET.json or SET/; "" is none.
      only: protocols, or one, in place of the suite's.
      force: measure again what is measured.
      compare: released model whose published numbers stand beside; "" is the model itself, where it
        is one.
      average: of a run with `config.ema_decay`, the average of its weights (`clipjax.load`).
    """

    data: str = ""
    prompts: str = ""
    only: str | Iterable[str] = ()
    force: bool = False
    compare: str = ""
    average: bool = True

    def __post_init__(self):
        object.__setattr__(self, "only", protocol_names(self.only, where="--protocols"))
        for flag, folder in (("--data", self.data), ("--prompts", self.prompts)):
            if folder and "://" not in folder and not os.path.isdir(folder):
                raise ConfigError(f"{flag}={folder}: no such folder (looked from {os.getcwd()})")


@functools.cache
def entries() -> dict[str, Entry]:
    """All registered sets by id."""
    sets = {}
    for key, facts in _json("sets.json")["sets"].items():
        facts = dict(facts)
        protocols = {name: Expected(**each) for name, each in facts.pop("protocols").items()}
        lists = {name: tuple(facts.pop(name, ())) for name in ("folders", "run")}
        sets[key] = Entry(id=key, protocols=protocols, **lists, **facts)
    return sets


@functools.cache
def published() -> dict[str, Any]:
    """Results others reported: protocol → source → model → set → metric → share."""
    return _json("published.json")


def reported(entry: Entry, *, protocol: str, model: str) -> dict[str, dict[str, float]]:
    """Source ("paper", "open_clip") → metric → share, of a released model on a set."""
    by_source = {}
    for source, models in published().get(protocol, {}).items():
        if entry.id in models.get(model, {}):
            by_source[source] = models[model][entry.id]
    return by_source


def get(name: str, *, run: str | Iterable[str] = ()) -> Entry:
    """The registered set, with protocols of its own; ConfigError naming the closest."""
    check_name(name, names=entries(), kind="evaluation set")
    return dataclasses.replace(entries()[name], run=protocol_names(run))


def own(
    name: str,
    *,
    path: str | os.PathLike[str] = "",
    source: str = "",
    split: str = "test",
    image_key: str = "",
    text_key: str = "",
    n: int | None = None,
    metric: str = "",
    prompts: str | os.PathLike[str] = "",
    train_path: str | os.PathLike[str] = "",
    validation_path: str | os.PathLike[str] = "",
    run: str | Iterable[str] = (),
) -> Entry:
    """A set of the user's own.

    Args:
      name: under which its results appear.
      path: see `Entry`; or, with `source`, that source's path.
      source: a name of `data.sources` such as "digits"; "" finds out what lies at `path`.
      split: the split's name, and the sub-folder of `path` if there is one of that name.
      image_key, text_key: as those of `config.data`, where the source reads them.
      n: how many images there must be.
      metric: the main one; "" is top1_accuracy, or mean_recall_at_1 for captions.
      prompts: a file or folder, see `class_names.read`; "" is the data's own.
      train_path, validation_path: as `path`, for a linear probe; without the second a part of the
        first is its validation split.
      run: protocols, or one; () takes the suite's.

    Raises:
      ConfigError: there is no such metric or protocol, or a value is of the wrong type.
    """
    where = f'suites.own("{name}")'
    if not path and not source:
        raise ConfigError(f"{where}: give path=, or source= for demo data")
    _check_file_name(name, where=f"{where}: the set")
    if _text(metric, where=f"{where}: metric"):
        registry.check_known(metric, where=f"{where}: metric")
    _size(n, where=f"{where}: n")
    for key, value in (("image_key", image_key), ("text_key", text_key)):
        if _text(value, where=f"{where}: {key}") and key not in _reads(source):
            who = f"source {source} reads none" if source else "name a source="
            raise ConfigError(f"{where}: {key}={value!r}: has no effect; {who}")
    return Entry(
        id=name,
        name=name,
        protocols={"own": Expected(n, metric)} if n else {},
        path=_path(path, where=f"{where}: path"),
        source=_text(source, where=f"{where}: source"),
        split=_text(split, where=f"{where}: split"),
        image_key=image_key,
        text_key=text_key,
        prompts_file=_path(prompts, where=f"{where}: prompts"),
        train_path=_path(train_path, where=f"{where}: train_path"),
        validation_path=_path(validation_path, where=f"{where}: validation_path"),
        metric=metric,
        run=protocol_names(run),
    )


PAPER_27 = (
    *("food101", "cifar10", "cifar100", "birdsnap", "sun397", "cars", "fgvc_aircraft", "voc2007"),
    *("dtd", "pets", "caltech101", "flowers102", "mnist", "fer2013", "stl10", "eurosat"),
    *("resisc45", "gtsrb", "kitti_distance", "country211", "pcam", "ucf101", "kinetics700"),
    *("clevr_counts", "hateful_memes", "rendered_sst2", "imagenet"),
)  # section 3.2, table 9
SHIFTS = (
    *("imagenet_v2", "imagenet_r", "imagenet_sketch", "objectnet", "imagenet_a"),
    *("imagenet_vid", "youtube_bb"),
)  # section 3.3, figure 13
RETRIEVAL = ("flickr30k", "mscoco")
DATACOMP_38 = (
    *("imagenet", "caltech101", "cifar10", "cifar100", "clevr_counts", "clevr_distance"),
    *("country211", "dtd", "eurosat", "fgvc_aircraft", "food101", "gtsrb", "imagenet_sketch"),
    *("imagenet_v2", "imagenet_a", "imagenet_o", "imagenet_r", "kitti_distance", "mnist"),
    *("objectnet", "flowers102", "pets", "voc2007", "pcam", "rendered_sst2", "resisc45", "cars"),
    *("stl10", "sun397", "svhn", "flickr30k", "mscoco", "winogavil", "iwildcam", "camelyon17"),
    *("fmow", "dollar_street", "geode"),
)  # the columns of open_clip's docs/openclip_results.csv
# The paper says "over 30" sets and lists none; these are all that its zero-shot tables name.
PAPER_ZERO_SHOT = (
    *PAPER_27,
    *("svhn", "iiit5k", "ayahoo", "sun", "rareact", *RETRIEVAL, *SHIFTS),
)
SUITES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # sets, protocols
    "paper27": (PAPER_27, ("zero_shot",)),
    "paper27_probes": (PAPER_27, ("zero_shot", "linear_probe", "few_shot")),
    "paper_zero_shot": (PAPER_ZERO_SHOT, ("zero_shot", "retrieval", "rare_actions")),
    "robustness": (("imagenet", *SHIFTS), ("zero_shot", "robustness", "pm_k")),
    "retrieval": (RETRIEVAL, ("retrieval",)),
    "datacomp38": (DATACOMP_38, ("zero_shot", "retrieval", "associations")),
}


def find(name: str) -> Suite:
    """A suite by name, or the one that `get_suite()` of a Python file gives, the user's or shipped.

    Raises:
      ConfigError: there is none, or the file is not as above.
    """
    if name in SUITES:
        sets, run = SUITES[name]
        return Suite(name, tuple(entries()[key] for key in sets), run)
    path = shipped.file(name, flag="suite", other_names=SUITES)
    try:
        suite = runpy.run_path(path)["get_suite"]()
    except ConfigError as error:
        raise ConfigError(f"--suite={name}: {error}") from None
    except (Exception, SystemExit) as error:  # the file is Python and may raise anything
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        more = "; define get_suite()" if text == "KeyError: 'get_suite'" else ""
        raise ConfigError(f"--suite={name}: {text}{more}") from error
    if not isinstance(suite, Suite):
        raise ConfigError(f"--suite={name}: get_suite() must return a suites.Suite, not {suite!r}")
    return check(suite, where=f"--suite={name}")


def check(suite: Suite, *, where: str) -> Suite:
    """The suite; ConfigError if it holds no sets or what is none, ids repeat or cannot be file
    names, or a metric is unknown."""
    _check_file_name(suite.name, where=f"{where}: the suite")
    if not suite.entries:
        raise ConfigError(f"{where}: the suite holds no sets")
    seen: set[str] = set()
    for entry in suite.entries:
        if not isinstance(entry, Entry):
            raise ConfigError(
                f'{where}: {entry!r} is no set; write suites.get("pets") for a registered one, or'
                ' suites.own("mine", path="DIR")'
            )
        if entry.id in seen:
            raise ConfigError(f'{where}: set "{entry.id}" needs a name of its own')
        seen.add(entry.id)
        _check_file_name(entry.id, where=f"{where}: set")
        for metric in filter(None, (entry.metric, *(e.metric for e in entry.protocols.values()))):
            registry.check_known(metric, where=f"{where}: metric of {entry.id}")
    return suite


def protocol_names(names: str | Iterable[str], *, where: str = "run") -> tuple[str, ...]:
    """The protocols, or the one, by name; ConfigError naming the closest for an unknown one."""
    try:
        listed = tuple(lists.texts(names, what=where))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for name in listed:
        check_name(name, names=registry.IN_SUITES, kind=where)
    return listed


def _path(value: Any, *, where: str) -> str:
    """A path as a text; ConfigError for what is none."""
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{where}={value!r}: is no path")
    return os.fspath(value)


def _text(value: Any, *, where: str) -> str:
    """A text; ConfigError for what is none."""
    if not isinstance(value, str):
        raise ConfigError(f"{where}={value!r}: is no text")
    return value


def _reads(source: str) -> tuple[str, ...]:
    """The settings that a source reads; () of none."""
    return sources.entry(source).reads if source else ()


def _size(value: Any, *, where: str) -> int | None:
    """A number of images, or None; ConfigError for what is neither."""
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ConfigError(f"{where}={value!r}: is no number of images")
    return value


def _check_file_name(name: Any, *, where: str) -> None:
    """Raise ConfigError if results could not lie in a file of this name."""
    if not isinstance(name, str) or not FILE_NAME.fullmatch(name):
        raise ConfigError(f'{where} "{name}" needs a name that a file can have')


def _json(name: str) -> Any:
    return json.loads(importlib.resources.files("clipjax.evals.suites").joinpath(name).read_text())
