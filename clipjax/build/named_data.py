"""The data that flags name: `--config`, whose `data` they are, or `--path`, `--source` and so on.

Programs that work on data define these flags by importing this module; errors then speak of the
flags that were typed, where sources speak of the config's keys.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

from absl import flags

from clipjax.common import cli, urls
from clipjax.common.exits import ConfigError, DataError

CONFIG = cli.define_config_flag()
SOURCE = flags.DEFINE_string(
    "source", None, "As config.data.source: tar, csv, parquet, …; not needed where --path shows it."
)
PATH = flags.DEFINE_string("path", None, "As config.data.path.")
NAME = flags.DEFINE_string("name", None, "As config.data.name, for tfds.")
SPLIT = flags.DEFINE_string("split", None, "As config.data.split.")
IMAGE_KEY = flags.DEFINE_string("image_key", None, "As config.data.image_key.")
TEXT_KEY = flags.DEFINE_string("text_key", None, "As config.data.text_key.")
INDEX = cli.define_path("index", None, "As config.data.index.", protocols=None)
KEEP = cli.define_path("keep", None, "As config.data.keep.", protocols=None)


def source(*, image_size: int) -> Any:
    """The data that the flags name; ConfigError if they name none."""
    from clipjax.build import data as build_data

    data, image_size = settings(image_size=image_size)
    with errors_of_flags():
        return build_data.source(data, image_size=image_size, seed=0)


def described(source: Any) -> str:
    """The data that the flags name, for people: "tar, shards/*.tar"; of a mixture its name."""
    from clipjax.data import sources

    data, _ = settings(image_size=0)
    if data.mixture:
        return source.name
    kind = sources.by_ending(data.path) or data.source  # one name, whatever it was called
    return ", ".join(filter(None, (kind, data.name, urls.shown(data.path))))


def settings(*, image_size: int) -> tuple[Any, int]:
    """(settings as `config.data`, image size) that the flags name; ConfigError if they name none.

    A path without `--source` says itself what it is. A mixture in a config file gives way to flags.
    """
    from clipjax import config

    data = CONFIG.value.data if CONFIG.value is not None else config.defaults().data
    typed = _typed()
    if CONFIG.value is None and not typed:
        raise ConfigError("no data are named; add --config=FILE.py, or --path")
    if "path" in typed and not typed.keys() & {"source", "name"}:
        typed["source"] = _source_of(typed["path"]) or data.source
    with data.unlocked():
        data.update(typed)
        if typed.keys() & {"source", "path", "name"}:
            data.mixture = type(data)()  # the config file's: flags name something else
    _check_read(typed, data=data)
    return data, CONFIG.value.model.vision.image_size if CONFIG.value is not None else image_size


def _check_read(typed: dict[str, str], *, data: Any) -> None:
    """Raise ConfigError on a typed flag that nothing reads, and that would change nothing."""
    from clipjax.data import sources

    known = data.source in sources.SOURCES  # an unknown one is the first to be told
    reads = sources.SOURCES[data.source].reads if known else typed
    who = f"source {data.source}"
    if data.mixture:
        reads, who = (), "the config's mixture"
    for name, value in typed.items():
        if name not in ("source", "keep", *reads):
            raise ConfigError(f"--{name}={value}: has no effect, {who} reads none; leave it out")


def _typed() -> dict[str, str]:
    """The flags of the data that were typed."""
    named = (SOURCE, PATH, NAME, SPLIT, IMAGE_KEY, TEXT_KEY, INDEX, KEEP)
    return {flag.name: flag.value for flag in named if flag.value is not None}


def _source_of(path: str) -> str:
    """The source of a path, by its ending or what its folder holds; "" where a config tells it."""
    from clipjax.data import sources

    if source := sources.by_ending(path):
        return source
    folder = os.path.expanduser(path)
    fitting = sources.by_content(folder) if os.path.isdir(folder) else []
    if len(fitting) == 1:
        return fitting[0]
    if CONFIG.value is not None:
        return ""
    if fitting:
        flags_ = " or ".join(f"--source={name}" for name in fitting)
        raise ConfigError(f"--path={path}: holds what several sources read; add {flags_}")
    ending = os.path.splitext(path)[1].lower()
    if remedy := sources.remedy(path):
        raise ConfigError(f"--path={path}: no source reads *{ending}; {remedy}")
    known = ", ".join(sources.names)
    raise ConfigError(f"--path={path}: has no ending that tells; add --source, one of {known}")


@contextlib.contextmanager
def errors_of_flags() -> Iterator[None]:
    """Let errors that speak of the config's keys speak of the flags that were typed."""
    typed, names = _typed(), ("source", "path", "name", "split", "image_key", "text_key")

    def as_flag(match: re.Match[str]) -> str:
        is_flag = match[1] in typed or (CONFIG.value is None and match[1] in names)
        return f"--{match[1]}" if is_flag else match[0]

    try:
        yield
    except (ConfigError, DataError) as error:
        text = re.sub(r"(?<!--)config\.data\.(\w+)", as_flag, str(error))
        raise type(error)(text) from None
