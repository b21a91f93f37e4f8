"""Where class names and templates come from: the user's files, a data folder, a wheel, the keys.

`of_set` decides for a set of a suite, in that order. Everything is joined by label key; see
`prompts`. The wheel is clip-benchmark's (`pip install --no-deps clip-benchmark`): two JSON files
in it are read, none of its code is imported.
"""

import functools
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from clipjax.common.exits import ConfigError
from clipjax.evals import prompts
from clipjax.evals.suites import Entry

WHEEL = "clip-benchmark"
INSTALL = f"pip install --no-deps {WHEEL}"
WHEEL_FILES = {
    "names": "clip_benchmark/datasets/en_classnames.json",
    "templates": "clip_benchmark/datasets/en_zeroshot_classification_templates.json",
}


def of_set(
    entry: Entry, *, source: Any, keys: Sequence[str], given: str = ""
) -> tuple[prompts.Prompts, str]:
    """The prompts for the classes `keys` of a set, and where they come from.

    Args:
      entry: the set.
      source: its data; one in the WebDataset layout may have names and templates.
      keys: label keys, in the order that results will have.
      given: the user's file or folder for this set, see `read`; "" is none.

    Raises:
      ConfigError: names and keys do not match; or there are no names, and keys are no words.
    """
    where = f"prompts of {entry.id}"
    if given or entry.prompts_file:
        place = given or entry.prompts_file
        table, origin = read(place, keys=keys, where=where), place
    else:
        table, origin = _of_data(entry, source=source, keys=keys, where=where)
    return prompts.make(keys, table=table, where=where), origin


def _of_data(
    entry: Entry, *, source: Any, keys: Sequence[str], where: str
) -> tuple[prompts.Table, str]:
    # A folder of the user's may have the name of a source of ours.
    if not hasattr(source, "templates") and source.name in prompts.TABLE_OF_SOURCE:
        return prompts.table("", source=source, keys=keys, where=where), "clipjax"
    names, templates = getattr(source, "class_names", None), getattr(source, "templates", ())
    if names is not None and templates:
        return prompts.Table(dict(zip(source.labels, zip(names), strict=True)), templates), "data"
    wheel = wheel_content() if entry.prompts else None
    origin = []
    if not templates and wheel and entry.prompts["templates"] in wheel["templates"]:
        listed = wheel["templates"][entry.prompts["templates"]]
        templates = tuple(text.replace("{c}", "{}") for text in listed)
        origin.append(f"templates: {WHEEL} {wheel['version']}")
    if names is not None:
        found = dict(zip(source.labels, zip(names), strict=True))
        origin.append("names: data")
    elif wheel and "names" in entry.prompts:
        found = _joined(entry, wheel["names"][entry.prompts["names"]], keys=keys, where=where)
        origin.append(f"names: {WHEEL} {wheel['version']}")
    elif entry.keys_are_words and not all(key.isdigit() for key in keys):
        found = {key: (words(key),) for key in keys}
        origin.append("names: the data's label keys")
    else:
        raise ConfigError(
            f"{where}: the data's label keys ({', '.join(keys[:3])}, …) are no words; install"
            f" names ({INSTALL}) or give --prompts=DIR with {entry.id}.json"
        )
    if not templates:
        templates = prompts.GENERIC
        origin.append("templates: one for anything")
    return prompts.Table(found, tuple(templates)), "; ".join(origin)


def words(key: str) -> str:
    """A label key as a name: "american_bulldog" → "american bulldog", "/a/abbey" → "abbey"."""
    return re.sub(r"[_/]+", " ", re.sub(r"^/\w/", "", key)).strip()


def normal(name: str) -> str:
    """What of a name is compared: letters and digits."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _joined(
    entry: Entry, names: Sequence[str], *, keys: Sequence[str], where: str
) -> dict[str, tuple[str, ...]]:
    """Names of a list by label key, as the registry says that the list is ordered."""
    join = entry.prompts["join"]
    if join == "name":
        aliases = entry.prompts.get("aliases", {})
        by_name = {normal(name): name for name in names}
        found = {}
        for key in keys:
            name = by_name.get(normal(aliases.get(key, key)))
            if name is not None:
                found[key] = (name,)
        unused = set(by_name.values()) - {name for (name,) in found.values()}
        if len(by_name) != len(names):
            raise ConfigError(f"{where}: names of the list are not unique, join it by another key")
        return {**found, **{name: (name,) for name in unused}}  # `prompts.make` tells what differs
    ordered = {
        "sorted": lambda: sorted(keys),
        "index": lambda: [str(i) for i in range(len(keys))],
        "wnid": imagenet_wnids,
    }[join]()
    if len(ordered) != len(names):
        raise ConfigError(
            f"{where}: {len(names)} names for {len(ordered)} label keys; give --prompts=DIR with"
            f" {entry.id}.json"
        )
    table = dict(zip(ordered, zip(names), strict=True))
    return {key: table[key] for key in keys if key in table} if entry.subset else table


@functools.cache
def imagenet_wnids() -> list[str]:
    """The 1,000 wnids, sorted, which is the order of the published names; out of TFDS's package."""
    import tensorflow_datasets as tfds

    features: Any = tfds.builder("imagenet2012").info.features
    return sorted(features["label"].names)


@functools.cache
def wheel_content() -> Mapping[str, Any] | None:
    """{"names", "templates", "version"} of the installed wheel; None where it is not installed."""
    try:
        found = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return None
    content: dict[str, Any] = {"version": found.version}
    for what, file in WHEEL_FILES.items():
        try:
            content[what] = json.loads(epath.Path(str(found.locate_file(file))).read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"package {WHEEL} {found.version}: {file} cannot be read ({error}); install it"
                " again"
            ) from None
    return content


def read(place: str, *, keys: Sequence[str], where: str) -> prompts.Table:
    """Names and templates that the user wrote.

    Args:
      place: a JSON file as `prompts.table` reads it; or a folder with classnames.txt, a line
        "KEY<TAB>NAME" or "KEY<TAB>NAME<TAB>ALIAS" for each class, or, where keys are the numbers
        0 … C - 1 or the names themselves, one name a line; and templates.txt, with {} or {c} for
        the name (zeroshot_classification_templates.txt is read too).
      keys: label keys of the data.
      where: for errors.

    Raises:
      ConfigError: files are missing or not as above.
    """
    path = epath.Path(place)
    if path.name.endswith(".json"):
        return prompts.read(place, where=where)
    lines = _lines(path, ("classnames.txt",))
    templates = _lines(path, ("templates.txt", "zeroshot_classification_templates.txt"))
    if lines is None:
        raise ConfigError(f"{where}: {place} holds no classnames.txt")
    if all("\t" in line for line in lines):
        rows = [line.split("\t") for line in lines]
        names = {key: tuple(filter(None, found)) for key, *found in rows}
        if len(names) != len(rows):
            raise ConfigError(f"{where}: {place}/classnames.txt names a label key twice")
    elif set(keys) == {str(i) for i in range(len(keys))}:
        names = {str(i): (line,) for i, line in enumerate(lines)}
    else:
        by_key = {normal(key): key for key in keys}
        names = {by_key.get(normal(line), line): (line,) for line in lines}
    made = tuple(line.replace("{c}", "{}") for line in templates or ())
    return prompts.Table(names, made or prompts.GENERIC)


def _lines(path: Any, names: Sequence[str]) -> list[str] | None:
    for name in names:
        try:
            return [line for line in (path / name).read_text().splitlines() if line.strip()]
        except OSError:
            continue
    return None
