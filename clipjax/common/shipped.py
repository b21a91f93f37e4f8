"""Configs and suites that come with clipjax, by name: `--config=quickstart`, `--suite=nightly`.

They are the files of `configs/` and `configs/evals/`. A checkout has that folder beside the
package, a wheel within it, as `clipjax.configs`. A local file of the same name wins.
"""

import os
import pathlib
from collections.abc import Iterable

from clipjax.common.exits import ConfigError
from clipjax.common.registry import closest

PACKAGE = pathlib.Path(__file__).parent.parent
FOLDERS = {"config": ".", "suite": "evals"}  # flag → where its files are, below `configs`


def names(flag: str) -> list[str]:
    """The names that `--config` or `--suite` takes for shipped files."""
    return sorted(path.stem for path in _folder(flag).glob("*.py"))


def file(value: str, *, flag: str, other_names: Iterable[str] = ()) -> str:
    """The path of the Python file that a flag's value names.

    Args:
      value: a path, with or without its `.py`, or the name of a shipped file.
      flag: "config" or "suite".
      other_names: what the flag takes besides files, for the message.

    Raises:
      ConfigError: there is no such file; the message lists what is known by name.
    """
    if "://" in value:
        raise ConfigError(
            f"--{flag}={value}: the file is run as code; copy it to this machine first"
        )
    path = os.path.expanduser(value)
    for local in (path, f"{path}.py"):
        if os.path.isfile(local):
            return local
    if value in names(flag):
        return str(_folder(flag) / f"{value}.py")
    known = [*other_names, *names(flag)]
    hint = closest(pathlib.PurePath(value).stem, known)
    wrong = (
        f"--{flag}={value}: no such file, looked from {os.getcwd()}{hint}"
        if value.endswith(".py")
        else f'--{flag}="{value}" is unknown{hint}'
    )
    raise ConfigError(f"{wrong}; known: {', '.join(known)}, or a Python file with get_{flag}()")


def _folder(flag: str) -> pathlib.Path:
    installed = PACKAGE / "configs"
    return (installed if installed.is_dir() else PACKAGE.parent / "configs") / FOLDERS[flag]
