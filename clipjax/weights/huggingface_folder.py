"""The files in a folder of transformers', which are the same for all of its models."""

import pathlib
from typing import Any

from clipjax.data import tokenizers
from clipjax.data.tokenizers import Tokenizer
from clipjax.weights import arrays, files, tokenizer_files
from clipjax.weights.preprocessing import PREPROCESSOR

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = "model.safetensors.index.json"  # where the weights are in several files


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
    tokenizers.publish(tokenizer_files.for_transformers(tokenizer), folder=folder)
