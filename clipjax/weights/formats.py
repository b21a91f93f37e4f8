"""Which format lies at a path, and which can be written; asked by `pretrained` and `convert`."""

import os
import pathlib
from typing import Any

from clipjax.common.exits import ConfigError, DataError
from clipjax.data.tokenizers import Tokenizer
from clipjax.weights import files, huggingface, open_clip, openai
from clipjax.weights.foreign import Foreign

PICKLES = (".pt", ".pth", ".bin", ".ckpt")  # how their names end
WRITERS = {"open_clip": open_clip.write, "huggingface": huggingface.write}


def is_pickle(path: str) -> bool:
    """Whether it is a file that may run its author's code when it is read."""
    return path.endswith(PICKLES)


def open_foreign(path: str | os.PathLike[str]) -> Foreign | None:
    """Another program's model, or None where there is none: then it may be a clipjax checkpoint.

    Raises:
      DataError: its files are damaged, or ask for what clipjax does not have.
    """
    place = pathlib.Path(path)
    try:
        if place.suffix == ".safetensors" and place.is_file():
            return openai.open(place)
        if (place / open_clip.CONFIG).is_file():
            return open_clip.open(place)
        if (place / huggingface.CONFIG).is_file() and not (place / "checkpoints").is_dir():
            return huggingface.open(place)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return None


def write(
    folder: str | os.PathLike[str],
    *,
    to: str,
    model: dict[str, Any],
    params: Any,
    tokenizer: Tokenizer,
) -> None:
    """Write a folder for another program, whole or not at all.

    Args:
      folder: new, or empty.
      to: one of `WRITERS`.
      model: nested dict as of `zoo.MODELS`.
      params: numpy, in the layout of scan=True.
      tokenizer: the model's.

    Raises:
      ConfigError: there is something in the folder.
      DataError: that program has no such model.
    """
    if to not in WRITERS:
        raise ConfigError(f'--format: "{to}" cannot be written')
    files.write_folder(
        folder,
        lambda made: WRITERS[to](made, model=model, params=params, tokenizer=tokenizer),
    )
