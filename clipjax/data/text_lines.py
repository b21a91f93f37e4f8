"""Text files of one name, template or number a line, as people write them on any system.

Read so that no byte-order mark or carriage return becomes part of a prompt. Used for class names
and templates of evaluation sets.
"""

import re
from typing import Any

from etils import epath

from clipjax.common.exits import DataError
from clipjax.data import captions

LINE_END = re.compile("\r\n|\r|\n")


def read(path: Any) -> list[str]:
    """The lines of a file that hold anything; `captions.clean` takes their stray spaces away.

    Raises:
      OSError: it cannot be read.
      DataError: it is not UTF-8.
    """
    return [line for line in LINE_END.split(text(path)) if captions.clean(line)]


def text(path: Any) -> str:
    """The whole file, local or remote, without a byte-order mark; errors as `read`."""
    data = epath.Path(path).expanduser().read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
