"""All indexes of a data set in one folder: `python -m clipjax.dataset index`.

Walks every shard once, remote ones as they come, so that training (`config.data.index`) opens
none of them at its start.
"""

import collections
import contextlib
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from clipjax.common import files
from clipjax.common.exits import ConfigError, DataError
from clipjax.curation import workers
from clipjax.data.source import Source
from clipjax.data.sources import shard_format, sharded
from clipjax.data.sources.shard_files import shared_index

CHUNK = 8  # shards


def walk(
    paths: Sequence[str], *, make: Callable[[str], Any], num_workers: int, show: bool = True
) -> None:
    """Make the indexes of these shards in processes, and keep them where the source finds them.

    Args:
      paths: of the shards.
      make: opens some of them, joined by "::", as a source, and so indexes them. Can be pickled.
      num_workers: processes.
      show: whether there is a progress bar.
    """
    chunks = [paths[first : first + CHUNK] for first in range(0, len(paths), CHUNK)]
    for _ in workers.results(
        functools.partial(_walk_some, make=make),
        chunks,
        num_workers=num_workers,
        unit="shard",
        sizes=[len(chunk) for chunk in chunks],
        show=show,
    ):
        pass


def _walk_some(paths: Sequence[str], *, make: Callable[[str], Any]) -> None:
    with contextlib.suppress(DataError):  # told when all of them are opened together
        make("::".join(paths))


def write(source: Source, *, folder: str) -> int:
    """Write the index of a source of shards; returns how many shards' indexes are in it.

    A format without indexes of its own (Parquet has its footers) gets the survey alone.

    Raises:
      ConfigError: the source is none of shards.
    """
    from etils import epath

    if not isinstance(source, sharded.ShardedSource):
        raise ConfigError(f"--source: {source.name} has no shards, so there is nothing to index")
    written: collections.Counter[str] = collections.Counter()
    for path, part in itertools.product(source.paths, ("", shard_format.part(source.form))):
        for path_of_index in source.files.index_places(path, part=part):
            with contextlib.suppress(OSError):
                target = shared_index(path, folder=folder, part=part)
                files.write(target, epath.Path(path_of_index).read_bytes())
                written[part] += 1
                break
    sharded.write_survey(source.survey_of(), folder=folder)
    return written[""]
