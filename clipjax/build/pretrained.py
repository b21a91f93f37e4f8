"""Weights from anywhere, as a run's checkpoint gives them: for `api`, `convert` and `config.init`.

A path is a clipjax work directory or step, or what `weights/formats.py` opens.
"""

import base64
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import clipjax
from clipjax import config
from clipjax.common.exits import ConfigError, DataError
from clipjax.data import tokenizers
from clipjax.models import config as model_settings
from clipjax.training.checkpoint import read as checkpoint_reader
from clipjax.training.checkpoint.write import Checkpoints
from clipjax.weights import formats, hub, weight_files
from clipjax.weights.foreign import Foreign

# Of a checkpoint's data file, and of a piece of an array in it. A few are in memory at a time; what
# is smaller than 32 MiB, Linux' allocator would keep when it has been read.
FILE_BYTES = 48 << 20
MOST_NAMED = 4  # models


class _Unchanging(np.ndarray):
    """An array that nobody writes to while it is saved; orbax, which cannot know, copies others."""

    def __deepcopy__(self, memo: Any) -> "_Unchanging":
        return self


def read(
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    tokenizer: str = "",
    average: bool = True,
    keep_half: bool = False,
    model_config: str = "",
    weights: Sequence[pathlib.Path] = (),
) -> tuple[Any, dict[str, Any]]:
    """`params` and `batch_stats` (numpy, host) and the JSON of a run, see `run/checkpoint_json.py`.

    Args:
      path: see above.
      step: which checkpoint of a run; default the newest.
      tokenizer: a file for models whose folder brings none.
      average: the moving average of the weights where there is one; else the newest weights.
      keep_half: what is float16 or bfloat16 in another program's files stays so; else all is
        float32, as it always is of a run.
      model_config: what the model is, where another program's files do not say it, see
        `weights/model_configs.py`.
      weights: safetensors made of the pickles at `path`.

    Raises:
      ConfigError: there is no model, nothing says which it is, or there is no tokenizer for it.
      DataError, CheckpointError: it is damaged.
    """
    path = os.path.expanduser(path)
    foreign = _foreign(path, model_config=model_config, average=average, weights=weights)
    if foreign is None and model_config:
        raise ConfigError(f"{path}: a clipjax run says itself what its model is; drop model_config")
    if foreign is None:
        restored = checkpoint_reader.restore_variables(path, step=step, average=average)
        kind = restored[1]["config"]["model"]["text"].get("kind", "transformer")
        if kind in model_settings.PREDICTING:
            raise ConfigError(
                f"{path}: predicts captions (model.text.kind={kind}) and embeds no text; only"
                ' evaluators of kind "likelihood" measure it, in training'
            )
        return restored
    try:
        run = _run(foreign, tokenizer=foreign.tokenizer(tokenizer))
        return foreign.variables(keep_half=keep_half), run
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def read_variables(path: str | os.PathLike[str]) -> Any:
    """The variables alone; errors as `read`."""
    path = os.path.expanduser(path)
    foreign = _foreign(path)
    if foreign is None:
        return checkpoint_reader.restore_variables(path)[0]
    try:
        return foreign.variables()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def read_model(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[str]]:
    """The settings of the model that weights were trained as, and notes on what was taken for want
    of a word in their files; errors as `read`."""
    path = os.path.expanduser(path)
    foreign = _foreign(path)
    if foreign is None:
        run = checkpoint_reader.read_run(path)
        return run["config"]["model"], run.get("notes", [])
    return foreign.model, list(foreign.notes)


def read_tokenizer(path: str | os.PathLike[str]) -> tokenizers.Tokenizer | None:
    """The tokenizer that the weights were trained with; None where they bring none of their own.

    Raises:
      DataError: they bring one, and it is damaged.
    """
    path = os.path.expanduser(path)
    foreign = _foreign(path)
    if foreign is None:
        return tokenizer_of(checkpoint_reader.read_run(path))
    try:
        return foreign.tokenizer()
    except ConfigError:
        return None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _foreign(place: str, **options: Any) -> Foreign | None:
    if place.startswith(hub.PREFIX):
        model = formats.open_foreign(hub.fetch(place), **options)
        if model is None:
            raise ConfigError(f"{place}: holds no model that clipjax reads")
        return model
    pickled = weight_files.is_pickle(place) and not os.path.isdir(place)
    if pickled and not options.get("weights"):
        raise ConfigError(f"{place}: {weight_files.TRUST.format(path=place)}")
    if "://" in place:
        return None
    if not os.path.exists(place):
        raise ConfigError(f"{place}: no such file or folder (looked from {os.getcwd()})")
    model = formats.open_foreign(place, **options)
    other = model is None and not checkpoint_reader.is_run(place)
    if other and (below := formats.models_below(pathlib.Path(place))):
        named = ", ".join(map(str, below[:MOST_NAMED]))
        raise ConfigError(f"{place}: holds no model itself; name one of those below: {named}")
    return model


def _run(foreign: Foreign, *, tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    """What a run would say of these weights."""
    settings = config.defaults()
    settings.model = config.model("custom", dtype="float32", **foreign.model)
    settings.tokenizer.kind = tokenizers.kind_of(tokenizer)
    return {
        "step": 0,
        "examples_seen": 0,
        "seed": settings.seed,
        "data_fingerprint": "",
        "tokenizer_hash": tokenizer.hash,
        "tokenizer": {
            name: base64.b64encode(content).decode() for name, content in tokenizer.files().items()
        },
        "tokenizer_rules": tokenizers.rules(tokenizer),
        "config": settings.to_dict(),
        "clipjax": clipjax.__version__,
        "imported": foreign.origin,
        **({"notes": list(foreign.notes)} if foreign.notes else {}),
    }


def tokenizer_of(run: dict[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer in a run's JSON."""
    files = {name: base64.b64decode(content) for name, content in run["tokenizer"].items()}
    length = run["config"]["model"]["text"]["context_length"]
    return tokenizers.from_files(files, context_length=length)


def write_checkpoint(folder: Any, variables: Any, *, run: dict[str, Any]) -> None:
    """Fill a folder with a checkpoint of the variables alone, and the tokenizer beside it.

    Args:
      folder: new or empty.
      variables: numpy; held once, besides what files are put together of.
      run: JSON as `read` gives it.
    """
    checkpoints = Checkpoints(os.fspath(folder))
    unchanging = jax.tree.map(lambda x: x.view(_Unchanging), variables)
    checkpoints.save(int(run["step"]), unchanging, run=run, file_bytes=FILE_BYTES)
    checkpoints.close()
    tokenizers.publish(tokenizer_of(run).files(), folder=os.path.join(folder, "tokenizer"))
