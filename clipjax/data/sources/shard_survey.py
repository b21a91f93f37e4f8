"""A data set's index as one folder: what a survey of all shards found, and each shard's index.

`python -m clipjax.dataset index` writes it, and `config.data.index` names it. With it a source
starts without opening any shard, on every host of a slice, however many shards there are.
"""

import json
from collections.abc import Mapping
from typing import Any

from clipjax.common import files
from clipjax.common.exits import ConfigError, DataError
from clipjax.data.sources import remote

SURVEY = "survey.json"
VERSION = 1


def read(folder: str) -> dict[str, Any]:
    """The survey in a folder, for `ShardedSource(survey=…)`.

    Raises:
      ConfigError: there is none.
      DataError: it is damaged, or of another version.
    """
    place = f"{folder.rstrip('/')}/{SURVEY}"
    try:
        survey = json.loads(remote.read(place))
    except OSError as error:
        raise ConfigError(
            f"config.data.index: cannot be read: {error.strerror or error}; make {place} with"
            " python -m clipjax.dataset index"
        ) from None
    except ValueError:
        survey = {}
    if not isinstance(survey, dict) or survey.get("version") != VERSION:
        raise DataError(
            f"config.data.index: {place} is damaged or of another version; make it again with"
            " python -m clipjax.dataset index"
        )
    return survey


def write(survey: Mapping[str, Any], *, folder: str) -> None:
    """Write a survey, after the indexes it belongs to."""
    files.write(f"{folder.rstrip('/')}/{SURVEY}", json.dumps({"version": VERSION, **survey}))
