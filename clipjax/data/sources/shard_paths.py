"""From what `config.data.path` says to a list of files. Used by sources that read shards.

`DATA/{00000..00999}.tar`, `DATA/*.tar`, `DATA` (all its files with the source's ending), or
several of these joined by `::`; each may be remote, `gs://…` or `https://…`.
"""

import glob
import itertools
import os
import re
from collections.abc import Iterator

from clipjax.common import urls
from clipjax.common.exits import ConfigError, DataError
from clipjax.data import sources
from clipjax.data.sources import remote

MAX_SHARDS = 1_000_000  # a longer range is a slip, and would fill the memory with names
KEPT = ".index.npz"  # indexes lie beside the shards
INNER_BRACES = re.compile(r"\{(\d+\.\.\d+|[^{}]*,[^{}]*)\}")


def expand(path: str | os.PathLike[str], *, ending: str) -> list[str]:
    """The files that `path` names, in order: ranges count up, patterns and folders are sorted.

    Args:
      path: as in the module's docstring; "~" is the home folder.
      ending: of the files that a folder stands for, ".tar".

    Raises:
      ConfigError: nothing is named or found, or something is named twice.
      DataError: some files of a range or list exist and some are missing.
    """
    path = os.fspath(path)
    if not path:
        raise ConfigError(
            f"config.data.path: not set; name shards, DATA/{{00000..00999}}{ending}, or a folder"
        )
    if path.startswith("pipe:"):
        raise ConfigError(
            f"config.data.path: {path}: commands are not run; name the files, or where they are in"
            f" a bucket, gs://BUCKET/{{00000..00999}}{ending}"
        )
    found: list[str] = []
    for part in path.split("::"):
        whole = part if remote.is_remote(part) else os.path.expanduser(part)
        named = list(itertools.islice(braces(whole), MAX_SHARDS + 1))
        if len(named) > MAX_SHARDS:
            raise ConfigError(f"config.data.path: {part} names more than {MAX_SHARDS:,} files")
        look = find_remote if remote.is_remote(part) else find
        found += look(named, part=part, ending=ending)
    twice = len(found) - len({p if remote.is_remote(p) else os.path.abspath(p) for p in found})
    if twice:
        raise ConfigError(f"config.data.path: {path} names {twice:,} files more than once")
    return found


def braces(pattern: str) -> Iterator[str]:
    """Expand braces as a shell does: "{08..10}" gives 08, 09, 10 and "{a,b}" gives a, b."""
    match = INNER_BRACES.search(pattern)
    if not match:
        yield pattern
        return
    for choice in choices(match[1]):
        yield from braces(pattern[: match.start()] + choice + pattern[match.end() :])


def choices(inside: str) -> Iterator[str]:
    """What one pair of braces stands for."""
    if ".." not in inside or "," in inside:
        yield from inside.split(",")
        return
    first, last = inside.split("..")
    padded = any(end.startswith("0") and end != "0" for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    for number in range(int(first), int(last) + step, step):
        yield f"{number:0{width}d}"


def find(named: list[str], *, part: str, ending: str) -> list[str]:
    """The files behind names without braces; see `expand`."""
    found: list[str] = []
    missing: list[str] = []
    for name in named:
        if os.path.isdir(name):
            inside = [
                os.path.join(name, file)
                for file in sorted(os.listdir(name))
                if remote.is_shard(file, ending=ending) and not file.startswith(".")
            ]
            if not inside:
                raise _no_shards(name, ending=ending)
            found += inside
        elif os.path.exists(name):
            found.append(name)
        else:
            matches = sorted(glob.glob(name)) if glob.has_magic(name) else []
            matches = [match for match in matches if not match.endswith(KEPT)]
            found += matches
            missing += [] if matches else [name]
    if not found:
        raise ConfigError(
            f"config.data.path: {part} matches no file"
            + ("" if os.path.isabs(os.path.expanduser(part)) else f" (looked from {os.getcwd()})")
        )
    if missing:
        raise DataError(
            f"config.data.path: {len(missing):,} of {len(named):,} shards of {part} are missing,"
            f" first {missing[0]}; copy them or name only those that are there"
        )
    return found


def _no_shards(folder: str, *, ending: str) -> ConfigError:
    """The error for a folder without shards, which says where they may be."""
    seen = sorted({os.path.splitext(file)[1] for file in os.listdir(folder)} - {""})
    only = f", only *{', *'.join(seen[:5])}" if seen else ""
    below = sorted(glob.glob(os.path.join(glob.escape(folder), "*", f"*{ending}")))
    remedy = "name those" if seen else ""
    if below:
        remedy = f"name the folder below, {os.path.dirname(below[0])}"
    elif other := sources.what_reads(folder, ending=ending):
        remedy = other
    problem = f"folder {folder} holds no *{ending} files{only}{remedy and f'; {remedy}'}"
    return ConfigError(f"config.data.path: {problem}")


def find_remote(named: list[str], *, part: str, ending: str) -> list[str]:
    """The remote files behind names without braces; see `expand`.

    A range is taken as it is: whether each file is there shows when it is first read. `https://`
    has ranges only.
    """
    found: list[str] = []
    for name in named:
        plain = name.partition("?")[0] if remote.is_http(name) else name  # "?" signs addresses
        if remote.is_shard(plain, ending=ending) and not any(letter in plain for letter in "*?["):
            found.append(name)
            continue
        try:
            matches = remote.find(name, ending=ending)
        except OSError as error:
            raise DataError(f"config.data.path: {error}") from None
        if matches is None:
            raise ConfigError(
                f"config.data.path: {urls.shown(name)} cannot be listed; name its files,"
                f" https://HOST/{{00000..00999}}{ending}"
            )
        found += matches
    if not found:
        raise ConfigError(f"config.data.path: {part} matches no file *{ending}")
    return found
