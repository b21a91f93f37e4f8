"""The files in a folder of transformers', which are the same for all of its models."""

import pathlib
from typing import Any

from clipjax.common.exits import DataError
from clipjax.data.tokenizers import Tokenizer
from clipjax.weights import arrays, files, tokenizer_files
from clipjax.weights.foreign import only_file
from clipjax.weights.preprocessing import PREPROCESSOR

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = "model.safetensors.index.json"  # where the weights are in several files


def open_weights(folder: pathlib.Path) -> files.SafeTensors:
    """The folder's weights, in one file or in those that an index names."""
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return files.SafeTensors(only_file(folder, WEIGHTS))
    names = files.read_json(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise DataError(f"{INDEX}: no weight_map")
    for name in names.values():
        if pathlib.PurePath(name).name != name:
            raise DataError(f"{INDEX}: {name!r} is not in this folder")
    return files.SafeTensors(*(folder / name for name in sorted(set(names.values()))))


def write(
    folder: pathlib.Path,
    *,
    config: dict[str, Any],
    preprocessor: dict[str, Any],
    tensors: arrays.Written,
    tokenizer: Tokenizer,
) -> None:
    """Fill an empty folder; the model loads in the half precision that all tensors are, else in
    float32."""
    dtype = arrays.common(tensors.dtypes.values()).name
    files.write_json(folder / CONFIG, config | {"torch_dtype": dtype})
    files.write_json(folder / PREPROCESSOR, preprocessor)
    files.write_safetensors(folder / WEIGHTS, tensors)
    for name, content in tokenizer_files.for_transformers(tokenizer).items():
        (folder / name).write_bytes(content)
