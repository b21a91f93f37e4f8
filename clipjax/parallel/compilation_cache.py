"""Compiled programs kept between runs; every program that compiles calls `enable`."""

import os

import jax

from clipjax.common import private


def enable(folder: str) -> None:
    """Keep compiled programs in a folder that only this user can write; "" keeps none.

    Raises:
      ConfigError: others may write the folder; what lies in it is run as code.
    """
    if not folder:
        return
    folder = os.path.expanduser(folder)
    if "://" not in folder:
        private.make(folder)
        private.check(folder, setting="config.compilation_cache")
    jax.config.update("jax_compilation_cache_dir", folder)
