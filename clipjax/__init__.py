"""clipjax: CLIP pre-training on TPU pods. Importing it loads neither jax nor numpy.

clipjax.load("runs/quickstart").zero_shot(["cat.jpg"], ["a cat", "a dog"])  # see clipjax/api.py
"""

import sys
from typing import Any

__version__ = "0.1.0"

# `python -m clipjax.main` imports this package before its program: Ctrl-C counts from here on.
if sys.argv[:1] == ["-m"] and any(word.startswith("clipjax.") for word in sys.orig_argv):
    from clipjax.common import interrupts

    interrupts.leave_at_once()


def __getattr__(name: str) -> Any:
    if name == "load":  # loads jax, so only when it is used
        from clipjax.api import load

        return load
    from clipjax.common import moved

    return moved.module(__name__, name)
