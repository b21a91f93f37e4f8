"""What to say when orbax could not save or read a step: which one, where, and why, in one line."""

import contextlib
import json
import os
import re
from typing import Any

from etils import epath

from clipjax.common import files

JSON_FILES = ("run/metadata", "state/_METADATA", "state/array_metadatas/*")  # of a step
SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")  # in tensorstore's messages
MANIFEST = "state/manifest.ocdbt"  # without it tensorstore takes the rest for no file at all


def failed(what: str, step: int, directory: Any, error: BaseException) -> str:
    """What to say when orbax could not do something to a step; files are named from `directory`."""
    while error.__cause__ is not None:  # orbax wraps tensorstore's, which say where
        error = error.__cause__
    reason = str(error).split(" [tensorstore_spec")[0].replace(f"{directory}/", "")
    if of_system := SYSTEM_ERROR.search(reason):  # the rest are names of parts of files
        number = int(of_system[1])
        reason = "; ".join(filter(None, [os.strerror(number), files.ADVICE.get(number)]))
    if broken := _broken(directory / str(step)) if what == "reading" else []:
        reason = f"{', '.join(str(file.relative_to(directory)) for file in broken)}: {reason}"
    reason = " ".join(reason.split())[:300]
    return f"{what} step {step} in {directory}: {type(error).__name__}: {reason}"


def _broken(folder: epath.Path) -> list[epath.Path]:
    """Files of a saved step that are seen to be damaged without a look at arrays."""
    damaged = []
    with contextlib.suppress(Exception):  # every cloud's package has its own
        if (folder / "state").exists() and not (folder / MANIFEST).exists():
            damaged.append(folder / MANIFEST)
        for file in (file for name in JSON_FILES for file in folder.glob(name)):
            try:
                json.loads(file.read_text())
            except ValueError:
                damaged.append(file)
    return damaged
