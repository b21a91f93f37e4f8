"""Compiled programs kept between runs; every program that compiles calls `enable`."""

import os
import stat

import jax

from clipjax.common.exits import ConfigError


def enable(folder: str) -> None:
    """Keep compiled programs in a folder that only this user can write; "" keeps none.

    Raises:
      ConfigError: others may write the folder; what lies in it is run as code.
    """
    if not folder:
        return
    folder = os.path.expanduser(folder)
    if "://" not in folder:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        status = os.stat(folder)
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or status.st_uid != os.getuid():
            raise ConfigError(
                f"config.compilation_cache={folder}: others may write it, and it is run as code;"
                " chmod 700 it or name another"
            )
    jax.config.update("jax_compilation_cache_dir", folder)
