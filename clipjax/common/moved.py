"""Modules whose names have changed since 0.1.0: the old ones, which scripts import, lead there.

A package's `__getattr__` asks here (PEP 562), so nothing is loaded until a script asks for it.
"""

import importlib
import warnings
from types import ModuleType

MOVED = {
    "clipjax.config_check": "clipjax.config.check",
    "clipjax.evals.prompt_files": "clipjax.evals.class_names",
    "clipjax.evals.set_data": "clipjax.evals.suites.set_data",
}


def module(package: str, name: str) -> ModuleType:
    """The module that `package` had as `name`, with a DeprecationWarning that says what it is now.

    Raises:
      AttributeError: it never had one.
    """
    old = f"{package}.{name}"
    if old not in MOVED:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    warnings.warn(f"{old} is {MOVED[old]} now", DeprecationWarning, stacklevel=3)
    return importlib.import_module(MOVED[old])
