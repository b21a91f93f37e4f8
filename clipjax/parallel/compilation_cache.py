"""Compiled programs kept between runs; every program that compiles calls `enable`."""

import logging
import os

import jax

from clipjax.common import files, private
from clipjax.common.exits import ConfigError, WriteError

SETTING = "config.compilation_cache"

log = logging.getLogger(__name__)


def enable(folder: str) -> None:
    """Keep compiled programs in a folder that only this user can write; "" keeps none.

    Where nothing can be kept, a warning says so: a cache is not worth a run.

    Raises:
      ConfigError: others may write the folder; what lies in it is run as code.
    """
    if not folder:
        return
    try:
        path = files.resolve(folder, setting=SETTING)
        if not files.is_remote(path):
            files.make_folder(path, setting=SETTING, mode=private.MODE)
            files.check_writable(os.path.join(path, "program"), setting=SETTING)
    except (ConfigError, WriteError) as error:
        log.warning("%s; programs are compiled anew at each start", error)
        return
    private.check(path, setting=SETTING)
    jax.config.update("jax_compilation_cache_dir", path)
