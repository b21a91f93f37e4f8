"""Which feature of a TFDS record is the image and which the text. Used by `sources.tfds`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clipjax.common.exits import ConfigError, DataError
from clipjax.common.registry import closest

# Feature names that mean a caption, most specific first. Other text features (file names, ids,
# questions) are used only where `text_key` names them.
CAPTION_NAMES = ("captions", "caption", "texts", "text", "title", "description")
LABEL_NAMES = ("label", "fine_label", "class")

Path = tuple[str, ...]  # a feature's place in a nested record; names may contain "/" themselves


def leaves(features: Any, prefix: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, feature) of every leaf; for a sequence, what it is a sequence of."""
    import tensorflow_datasets as tfds

    for name, feature in features.items():
        path = (*prefix, name)
        if isinstance(feature, (tfds.features.Sequence, tfds.features.Dataset)):
            if isinstance(feature.feature, tfds.features.ClassLabel):
                continue  # several classes in one picture make no caption
            feature = feature.feature
        if isinstance(feature, tfds.features.FeaturesDict):
            yield from leaves(feature, path)
        else:
            yield path, feature


def choose_image(features: Mapping[Path, Any], *, key: str, name: str) -> Path:
    """The path of the image feature that `key` names, or of the only one, or of "image"."""
    import tensorflow_datasets as tfds

    found = [path for path, kind in features.items() if isinstance(kind, tfds.features.Image)]
    return choose(found, features, preferred=("image",), key=key, name=name, kind="image")


def choose_text(features: Mapping[Path, Any], *, key: str, name: str) -> Path:
    """The path of the text or class label that `key` names, else a caption, else a class label."""
    import tensorflow_datasets as tfds

    texts = [path for path, kind in features.items() if isinstance(kind, tfds.features.Text)]
    labels = [path for path, kind in features.items() if isinstance(kind, tfds.features.ClassLabel)]
    captions = [path for path in texts if set(path) & set(CAPTION_NAMES)]
    found = texts + labels if key else captions or labels
    preferred = CAPTION_NAMES + LABEL_NAMES
    return choose(found, features, preferred=preferred, key=key, name=name, kind="text")


def choose(
    found: Sequence[Path],
    features: Mapping[Path, Any],
    *,
    preferred: Sequence[str],
    key: str,
    name: str,
    kind: str,
) -> Path:
    """One of the paths `found`: the one `key` names, the most preferred, or the only one.

    Raises:
      ConfigError: `key` names none of them, or several are equally good.
      DataError: there is none.
    """
    names = {"/".join(path): path for path in found}
    seen = ", ".join(f"{'/'.join(path)} ({type(f).__name__})" for path, f in features.items())
    if key:
        matches = [path for full, path in names.items() if key in (full, path[0])]
        if len(matches) == 1 or key in names:
            return names.get(key, matches[0])
        raise ConfigError(
            f"config.data.{kind}_key: {key!r} is not one {kind} feature of {name}"
            f"{closest(key, names)}; features seen: {seen}"
        )
    if not found:
        raise DataError(f"data set {name} has no {kind} feature; features seen: {seen}")
    for wanted in preferred:
        for path in found:
            if wanted in path:
                return path
    if len(found) > 1:
        raise ConfigError(
            f"config.data.{kind}_key: {name} has several {kind} features; set one of"
            f" {', '.join(names)}"
        )
    return found[0]


def value_at(record: Mapping[str, Any], path: Path) -> Any:
    """The value at a path; below a sequence, the list of values."""
    value: Any = record
    for part in path:
        value = value[part] if isinstance(value, Mapping) else [item[part] for item in value]
    return value
