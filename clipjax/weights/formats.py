"""Which format lies at a path, and which can be written; asked by `pretrained` and `convert`."""

import os
import pathlib
from typing import Any

from clipjax.common.exits import ConfigError, DataError
from clipjax.data.tokenizers import Tokenizer
from clipjax.weights import (
    big_vision,
    files,
    huggingface,
    huggingface_folder,
    huggingface_siglip,
    open_clip,
    open_clip_siglip,
    openai,
    siglip,
)
from clipjax.weights.foreign import BATCH_STATS, Foreign
from clipjax.weights.settings import Settings

PICKLES = (".pt", ".pth", ".bin", ".ckpt")  # how their names end
# Format → how a CLIP is written, how a SigLIP is.
WRITERS = {
    "open_clip": (open_clip.write, open_clip_siglip.write),
    "huggingface": (huggingface.write, huggingface_siglip.write),
}


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
        if place.suffix == ".npz" and place.is_file():
            return big_vision.open(place)
        if (place / open_clip.CONFIG).is_file():
            return _open_clip(place)
        if (place / huggingface_folder.CONFIG).is_file() and not (place / "checkpoints").is_dir():
            return _huggingface(place)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return None


def _open_clip(folder: pathlib.Path) -> Foreign:
    config = Settings(files.read_json(folder / open_clip.CONFIG), file=open_clip.CONFIG)
    name = config.part("model_cfg").part("vision_cfg").given("timm_model_name", "")
    return open_clip_siglip.open(folder) if "_siglip_" in str(name) else open_clip.open(folder)


def _huggingface(folder: pathlib.Path) -> Foreign:
    config = Settings(
        files.read_json(folder / huggingface_folder.CONFIG), file=huggingface_folder.CONFIG
    )
    readers = {"clip": huggingface.open, huggingface_siglip.MODEL_TYPE: huggingface_siglip.open}
    return readers[config.one_of("model_type", readers, None)](folder)


def write(
    folder: str | os.PathLike[str],
    *,
    to: str,
    model: dict[str, Any],
    variables: dict[str, Any],
    tokenizer: Tokenizer,
) -> None:
    """Write a folder for another program, whole or not at all.

    Args:
      folder: new, or empty.
      to: one of `WRITERS`.
      model: nested dict as of `zoo.MODELS`.
      variables: `params` and perhaps `batch_stats`, numpy, float32 or half, which stays so, in the
        layout of scan=True or of scan=False.
      tokenizer: the model's.

    Raises:
      ConfigError: there is something in the folder.
      DataError: that program has no such model.
    """
    if to not in WRITERS:
        raise ConfigError(f'--format: "{to}" cannot be written')
    kind = model["text"].get("kind", "transformer")
    if kind != "transformer":
        raise DataError(f"no other program has a text tower like this one, model.text.kind={kind}")
    writer = WRITERS[to][siglip.is_siglip(model)]
    stats = {BATCH_STATS: variables[BATCH_STATS]} if variables.get(BATCH_STATS) else {}
    params = {**variables["params"], **stats}
    given = {"model": model, "params": params, "tokenizer": tokenizer}
    files.write_folder(folder, lambda made: writer(made, **given))
