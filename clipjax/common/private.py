"""Folders that strangers may not write: of runs, of data, of compiled programs.

Whoever may write them may change weights, data, or code that is run.
"""

import os
from collections.abc import Iterable

from clipjax.common.exits import ConfigError

MODE = 0o700  # of folders that are for this user alone


def check(folder: str, *, setting: str, shared: bool = False) -> None:
    """Refuse a local folder that others own or may write; none at all is fine.

    Args:
      folder: its path.
      setting: that names it.
      shared: its group may write it, and another user own it: colleagues work on one run, and
        containers as root in a user's folder. Not where what lies there is run as code.

    Raises:
      ConfigError: names the setting, the folder, who may write it and what to do.
    """
    if "://" in folder:
        return
    try:
        status = os.stat(folder)
    except OSError:
        return  # what is made there is this user's, and what cannot be is told by who tries
    if is_ours(status) or (shared and not status.st_mode & 0o002):
        return
    if status.st_mode & 0o022:
        raise ConfigError(
            f"{setting}={folder}: others may write it; chmod go-w it or name another folder"
        )
    raise ConfigError(
        f"{setting}={folder}: belongs to user {status.st_uid} and not to this one,"
        f" {os.geteuid()}; name another folder"
    )


def is_ours(status: os.stat_result, *, trusted: Iterable[int] = ()) -> bool:
    """Whether this user, root or a `trusted` one owns it and nobody else may write it."""
    return status.st_uid in (os.geteuid(), 0, *trusted) and not status.st_mode & 0o022
