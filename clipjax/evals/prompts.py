"""Prompts: which texts stand for the classes of a data set. `zero_shot` embeds them.

A table gives each class its names by **label key**, the string the data themselves use (a wnid, a
folder's name, a TFDS label). Tables and data are joined by key, never by order, and must have the
same keys: a table in another order, or of another data set, is an error and not a low score. Names
need not be unique; a class may have several (aliases).
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.common import lists
from clipjax.common.counts import counted
from clipjax.common.exits import ConfigError, DataError
from clipjax.common.registry import closest
from clipjax.data import captions

GENERIC = ("a photo of a {}.",)  # the paper's one template for anything (section 3.1.4)
SHOWN = 5  # keys named in an error


@dataclasses.dataclass(frozen=True)
class Table:
    """Label key → names of the class, and templates to put them into."""

    names: Mapping[str, tuple[str, ...]]
    templates: tuple[str, ...] = GENERIC


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Class i is `keys[i]`; its prompts are all `templates` with all of `names[i]`."""

    keys: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]

    def texts(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """(N prompts, int32 [N] the class of each, int32 [C] each class's single prompt: its first
        name in the first template)."""
        texts, owners, singles = [], [], []
        for owner, names in enumerate(self.names):
            singles.append(len(texts))
            for template in self.templates:
                texts += [template.replace("{}", name) for name in names]
            owners += [owner] * (len(texts) - len(owners))
        return texts, np.array(owners, np.int32), np.array(singles, np.int32)

    @property
    def hash(self) -> str:
        """Eight hex digits that change with any key, name or template."""
        content = json.dumps([self.keys, self.names, self.templates])
        return hashlib.sha256(content.encode()).hexdigest()[:8]


def make(
    keys: Sequence[str],
    *,
    table: Table,
    templates: Sequence[str] = (),
    permute_names: bool = False,
    where: str,
    origin: str = "",
) -> Prompts:
    """The prompts for the classes `keys` of a data set.

    Args:
      keys: all label keys of the data, in the order that results will have.
      table: names by the same keys.
      templates: in place of the table's.
      permute_names: give every class the names of the next one. A control: a model that reads
        names must then be wrong nearly always.
      where: the config key of the evaluator, for errors.
      origin: where names and templates come from, for errors; "" is the evaluator's settings.

    Raises:
      ConfigError: keys differ (names missing and extra ones), or a template is none.
    """
    missing = [key for key in keys if key not in table.names]
    extra = [key for key in table.names if key not in set(keys)]
    if missing or extra:
        raise ConfigError(
            f"{origin or f'{where}.classes'}: the label keys of the names are not those of the"
            f" data's {counted(len(keys), 'class', 'classes')};"
            f" {_listed('without names', missing)}, {_listed('not in the data', extra)}"
        )
    if len(keys) < 2:
        raise ConfigError(f"{where}: the data have one class only, {keys[0]}; nothing to tell")
    templates = check_templates(templates or table.templates, where=origin or f"{where}.templates")
    names = [table.names[key] for key in keys]
    if permute_names:
        names = [*names[1:], names[0]]
    return Prompts(tuple(keys), tuple(names), templates)


def check_templates(templates: str | Iterable[str], *, where: str) -> tuple[str, ...]:
    """The templates, or the one, each a text with one {}; ConfigError if one is not, or none is
    given.

    Only a literal {} is replaced: no format specifications, no attributes, no fields by name.
    """
    try:
        templates = lists.texts(templates, what=where)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not templates:
        raise ConfigError(f"{where}: give at least one, such as {GENERIC[0]!r}")
    for template in templates:
        rest = template.replace("{}", "", 1)
        if rest == template or "{" in rest or "}" in rest:
            raise ConfigError(
                f'{where}: "{template}" is no template; write a text with one {{}}, where the'
                " name goes"
            )
    return tuple(templates)


def check_fit(texts: Sequence[str], *, tokenizer: Any, where: str) -> None:
    """Raise ConfigError if a prompt is longer than the context: its end would go unread."""
    _, truncated = tokenizer.encode(texts)
    if truncated.any():
        first = texts[int(np.flatnonzero(truncated)[0])]
        raise ConfigError(
            f'{where}: "{first}" does not fit in the model\'s {tokenizer.context_length} tokens'
            f" (config.model.text.context_length={tokenizer.context_length}); choose"
            " shorter names or templates"
        )


def table(name: str, *, source: Any, keys: Sequence[str], where: str) -> Table:
    """A built-in table by name, one from a JSON file, or by default the source's own.

    Args:
      name: of TABLES; or a file {"names": {key: name or list of names}, "templates": [...]}, the
        templates optional; or "": the table of a source that clipjax ships, else the label keys
        themselves, underscores read as spaces.
      source: the data.
      keys: their label keys.
      where: the config key of the evaluator, for errors.

    Raises:
      ConfigError: no such table, or the file is not as above.
    """
    name = name or TABLE_OF_SOURCE.get(source.name, "")
    if not name:
        return Table({key: (key.replace("_", " "),) for key in keys})
    if name in TABLES:
        return TABLES[name]()
    if not name.endswith(".json"):
        raise ConfigError(
            f'{where}.classes: "{name}" is unknown{closest(name, TABLES)}; known:'
            f" {', '.join(TABLES)}, or a JSON file"
        )
    return read(name, where=f"{where}.classes={name}")


def check_settings(classes: str, *, templates: Sequence[str], where: str) -> None:
    """Raise ConfigError for an evaluator's settings that no data could make prompts of; arguments
    as of `table` and `make`."""
    if classes and classes not in TABLES:
        table(classes, source=None, keys=(), where=where)
    if templates:
        check_templates(templates, where=f"{where}.templates")


def read(file: str, *, where: str) -> Table:
    """The table in a JSON file, as `table` describes it; ConfigError naming what is wrong."""
    try:
        content = json.loads(captions.file_text(file), object_pairs_hook=_each_once)
        names = {key: _as_names(value) for key, value in content["names"].items()}
        listed = lists.texts(content.get("templates", GENERIC), what="templates")
        templates = tuple(captions.clean(text).replace("{c}", "{}") for text in listed)
        return Table(names, templates or GENERIC)
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read ({error.strerror or error})") from None
    except DataError as error:
        raise ConfigError(f"{where}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f'{where}: write {{"names": {{"label key": "name" or ["name", "alias"], …}},'
            f' "templates": ["a photo of a {{}}."]}} ({" ".join(str(error).split())})'
        ) from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; ValueError for a key that it holds twice, of which one would be lost."""
    by_key = dict(pairs)
    if len(by_key) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} stands there twice")
    return by_key


def _as_names(value: Any) -> tuple[str, ...]:
    names = tuple(captions.clean(name) for name in lists.texts(value, what="names"))
    if not names or not all(names):
        raise ValueError("a class has no name, or an empty one")
    return names


def _listed(what: str, keys: Sequence[str]) -> str:
    more = ", …" if len(keys) > SHOWN else ""
    shown = ", ".join(map(repr, keys[:SHOWN]))
    return f"{what}: {len(keys)} ({shown}{more})" if keys else f"{what}: none"


def _objects() -> Table:
    """The forty objects, in the words of the scenes' own captions."""
    from clipjax.data.sources.scenes import BACKGROUNDS, OBJECTS
    from clipjax.data.sources.sprites import with_article

    places = tuple(f"{{}} on {with_article(color)} background" for color in BACKGROUNDS)
    return Table({kind.name: (kind.phrase,) for kind in OBJECTS}, places)


def _digits() -> Table:
    """Digits by name, in the captions they are trained with."""
    from clipjax.data.sources.digits import CAPTIONS, LABELS, NAMES

    return Table({key: (name,) for key, name in zip(LABELS, NAMES, strict=True)}, CAPTIONS)


TABLES = {"objects": _objects, "digits": _digits}  # made on demand: their data need packages
TABLE_OF_SOURCE = {
    "objects": "objects",
    "objects_noto": "objects",
    "digits": "digits",
    "mnist_5k": "digits",
}


def read_alike(asked: Prompts, *, tokenizer: Any) -> list[tuple[int, ...]]:
    """Groups of classes whose names are the same tokens: their scores tie, and a tie is wrong.

    Names that differ may be read alike, by case or as words that a vocabulary does not know.
    """
    template = asked.templates[0]
    texts = [template.replace("{}", name) for names in asked.names for name in names]
    tokens, _ = tokenizer.encode(texts)
    rows = iter(np.asarray(tokens))
    groups: dict[tuple[bytes, ...], list[int]] = {}
    for index, names in enumerate(asked.names):
        read = tuple(sorted(next(rows).tobytes() for _ in names))
        groups.setdefault(read, []).append(index)
    return [tuple(group) for group in groups.values() if len(group) > 1]
