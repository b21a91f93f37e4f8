"""Where class names and templates come from: the user's files, a data folder, a wheel, the keys.

`of_set` decides for a set of a suite, in that order. Everything is joined by label key; see
`prompts`. The wheel is clip-benchmark's (`pip install --no-deps clip-benchmark`): two JSON files
in it are read, none of its code is imported.
"""

import functools
import importlib.metadata
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from clipjax.common.exits import ConfigError, DataError
from clipjax.data import captions
from clipjax.evals import prompts
from clipjax.evals.suites import Entry

NUMBER = re.compile(r"-?\d+(\.\d+)?")
WHEEL = "clip-benchmark"
INSTALL = f"pip install --no-deps {WHEEL}"
WHEEL_FILES = {
    "names": "clip_benchmark/datasets/en_classnames.json",
    "templates": "clip_benchmark/datasets/en_zeroshot_classification_templates.json",
}


def of_set(
    entry: Entry, *, source: Any, keys: Sequence[str], own: str = ""
) -> tuple[prompts.Prompts, str]:
    """The prompts for the classes `keys` of a set, and where they come from.

    Args:
      entry: the set.
      source: its data; one in the WebDataset layout may have names and templates.
      keys: label keys, in the order that results will have.
      own: the user's file or folder for this set, see `read`; "" is none.

    Raises:
      ConfigError: names and keys do not match; or there are no names, and keys are no words.
    """
    where = f"prompts of {entry.id}"
    if file := own or entry.prompts_file:
        table, origin = read(file, keys=keys, where=f"{where} ({file})"), file
    else:
        table, origin = _of_data(entry, source=source, keys=keys, where=where)
    texts = prompts.make(keys, table=table, where=where, origin=f"{where} ({origin})")
    return texts, origin


def _of_data(
    entry: Entry, *, source: Any, keys: Sequence[str], where: str
) -> tuple[prompts.Table, str]:
    # A folder of the user's may have the name of a source of ours.
    if source.templates is None and source.name in prompts.TABLE_OF_SOURCE:
        return prompts.table("", source=source, keys=keys, where=where), "clipjax"
    names, templates = source.class_names, source.templates or ()
    if names is not None and templates:
        return prompts.Table(dict(zip(source.labels, zip(names), strict=True)), templates), "data"
    wheel = wheel_content() if entry.prompts else None
    origin = []
    if not templates and wheel and entry.prompts["templates"] in wheel["templates"]:
        listed = wheel["templates"][entry.prompts["templates"]]
        templates = tuple(text.replace("{c}", "{}") for text in listed)
        origin.append(f"templates: {WHEEL} {wheel['version']}")
    if names is not None:
        by_key = dict(zip(source.labels, zip(names), strict=True))
        origin.append("names: data")
    elif wheel and "names" in entry.prompts:
        by_key = _joined(entry, wheel["names"][entry.prompts["names"]], keys=keys, where=where)
        origin.append(f"names: {WHEEL} {wheel['version']}")
    elif entry.keys_are_words and not all(NUMBER.fullmatch(key) for key in keys):
        by_key = {key: (words(key),) for key in keys}
        origin.append("names: the data's label keys")
    else:
        raise ConfigError(
            f"{where}: the data's label keys ({', '.join(keys[:3])}, …) are no words; install"
            f" names ({INSTALL}) or give --prompts=DIR with {entry.id}.json"
        )
    if not templates:
        templates = prompts.GENERIC
        origin.append("templates: one for anything")
    return prompts.Table(by_key, tuple(templates)), "; ".join(origin)


def words(key: str) -> str:
    """A label key as a name: "american_bulldog" → "american bulldog", "/a/abbey" → "abbey"."""
    return re.sub(r"[_/]+", " ", re.sub(r"^/\w/", "", key)).strip()


def joined(names: Sequence[str], *, keys: Iterable[str]) -> dict[str, str]:
    """Label key → the name that is equal to it.

    To the letter; what is left in ever looser forms (Unicode's composed characters, without case,
    letters and digits alone), each only where no other of its side is the same in that form: "C"
    and "C++" stay apart, "Saint-Bernard" finds "saint bernard".
    """
    by_key: dict[str, str] = {}
    left_keys, left_names = list(dict.fromkeys(keys)), list(names)
    for form in (str, _composed, _caseless, _letters):
        by_form = {form(name): name for name in left_names}
        alone = {k for k, count in Counter(map(form, left_names)).items() if count == 1}
        alone &= {k for k, count in Counter(map(form, left_keys)).items() if count == 1}
        by_key |= {key: by_form[form(key)] for key in left_keys if form(key) in alone}
        used = set(by_key.values())
        left_keys = [key for key in left_keys if key not in by_key]
        left_names = [name for name in left_names if name not in used]
    return by_key


def _composed(name: str) -> str:
    return unicodedata.normalize("NFKC", name)


def _caseless(name: str) -> str:
    return _composed(name).casefold()


def _letters(name: str) -> str:
    """Letters, the signs that belong to them, and digits, of any script."""
    return "".join(c for c in _caseless(name) if unicodedata.category(c)[0] in "LMN")


def _joined(
    entry: Entry, names: Sequence[str], *, keys: Sequence[str], where: str
) -> dict[str, tuple[str, ...]]:
    """Names of a list by label key, as the registry says that the list is ordered."""
    join = entry.prompts["join"]
    if join == "name":
        aliases = entry.prompts.get("aliases", {})
        if len(set(names)) != len(names):
            raise ConfigError(f"{where}: names of the list are not unique, join it by another key")
        known = joined(names, keys=[aliases.get(key, key) for key in keys])
        by_key = {key: known[alias] for key in keys if (alias := aliases.get(key, key)) in known}
        unused = [name for name in names if name not in by_key.values()]
        pairs = [*by_key.items(), *zip(unused, unused, strict=True)]
        return {key: (name,) for key, name in pairs}  # `prompts.make` tells what differs
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
        wheel = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return None
    content: dict[str, Any] = {"version": wheel.version}
    for what, file in WHEEL_FILES.items():
        try:
            content[what] = json.loads(epath.Path(str(wheel.locate_file(file))).read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"package {WHEEL} {wheel.version}: {file} cannot be read ({error}); install it"
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
      where: for errors, with the place.

    Raises:
      ConfigError: files are missing or not as above.
    """
    path = epath.Path(place)
    if path.name.endswith(".json"):
        return prompts.read(place, where=where)
    lines = _lines(path, ("classnames.txt",), where=where)
    templates = _lines(
        path, ("templates.txt", "zeroshot_classification_templates.txt"), where=where
    )
    if lines is None:
        raise ConfigError(f"{where}: holds no classnames.txt")
    rows = _rows(lines, keys=keys)
    names = {key: tuple(filter(None, own)) for key, *own in rows}
    if len(names) != len(rows):
        twice = next(key for key, count in Counter(row[0] for row in rows).items() if count > 1)
        raise ConfigError(f"{where}: classnames.txt names {twice!r} twice")
    if nameless := next((key for key, own in names.items() if not own), None):
        raise ConfigError(f"{where}: classnames.txt has no name for {nameless!r}")
    wrapped = tuple(captions.clean(line).replace("{c}", "{}") for line in templates or ())
    return prompts.Table(names, wrapped or prompts.GENERIC)


def _rows(lines: Sequence[str], *, keys: Sequence[str]) -> list[list[str]]:
    """[label key, names …] of each line of a classnames.txt, as `read` tells them."""
    cells = [[captions.clean(cell) for cell in line.split("\t")] for line in lines]
    if all(len(row) > 1 for row in cells) and any(any(row[1:]) for row in cells):
        return cells
    names = [captions.clean(line) for line in lines]
    if set(keys) == {str(i) for i in range(len(keys))}:
        return [[str(i), name] for i, name in enumerate(names)]
    key_of = {name: key for key, name in joined(names, keys=keys).items()}
    return [[key_of.get(name, name), name] for name in names]


def _lines(path: Any, names: Sequence[str], *, where: str) -> list[str] | None:
    for name in names:
        try:
            return captions.lines(path / name)
        except OSError:
            continue
        except DataError as error:
            raise ConfigError(f"{where}: {error}") from None
    return None
