"""Finds the model in a file of weights, under whatever words were put before its names.

Training in parallel, torch.compile, FSDP and Lightning each wrap a model, and their words stay in
the names of a state dict, in any order. Beside the weights may lie their moving average, in a
dictionary of its own or under a word of its own.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping

import numpy as np

from clipjax.common.exits import DataError
from clipjax.weights.arrays import Tensors

# Words that wrap a model and say nothing of it; no CLIP has a part of that name.
WRAPPERS = frozenset(
    ("module", "model", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
)
DICTIONARY = "/"  # ends the name of a dictionary that an array lies in; `torch_pickles` writes it
# An array that every CLIP has, as open_clip and transformers name it, the longest first.
MARKS = (
    "text_model.embeddings.token_embedding.weight",
    "text.token_embedding.weight",
    "token_embedding.weight",
)
AVERAGE = re.compile(r"(^|[._/])(ema|swa)($|[._/])|average|shadow", re.IGNORECASE)
COUNTER = "n_averaged"  # PyTorch's AveragedModel keeps it beside the names


@dataclasses.dataclass(frozen=True)
class Renamed:
    """`arrays.Tensors` of some arrays of a file, under names of our choice.

    Attributes:
      tensors: the file.
      names: new name → the file's.
    """

    tensors: Tensors
    names: Mapping[str, str]

    @functools.cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {new: self.tensors.shapes[old] for new, old in self.names.items()}

    @functools.cached_property
    def dtypes(self) -> Mapping[str, np.dtype]:
        known = self.tensors.dtypes
        return {new: known[old] for new, old in self.names.items() if old in known}

    def read(self, name: str, /) -> np.ndarray:
        return self.tensors.read(self.names[name])


def unwrap(tensors: Tensors, *, average: bool) -> tuple[Tensors, tuple[str, ...]]:
    """The arrays of the one model in a file, by their own names, and notes on the choice.

    Args:
      tensors: the file; names may begin with dictionaries, "state_dict/module.visual.proj".
      average: whether to take the moving average where there is one beside the weights.

    Raises:
      DataError: there are several models, or one array twice.
    """
    unwrapped: dict[str, str] = {}
    for full in tensors.shapes:
        dictionary, _, name = full.rpartition(DICTIONARY)
        words = [word for word in name.split(".") if word not in WRAPPERS]
        new = (dictionary + DICTIONARY if dictionary else "") + ".".join(words)
        if new in unwrapped:
            raise DataError(f"{full} and {unwrapped[new]} are the same array of a model")
        unwrapped[new] = full
    models = [prefix for prefix in map(_prefix, unwrapped) if prefix is not None]
    if not models:
        raise DataError(f"no CLIP: {MARKS[-1]} is missing among {len(unwrapped)} arrays")
    chosen, notes = _choose(models, average=average)
    dictionary = chosen.rpartition(DICTIONARY)[0]
    names = {}
    for new, full in unwrapped.items():
        owner = max((prefix for prefix in models if new.startswith(prefix)), key=len, default=None)
        beside = owner is None and new.rpartition(DICTIONARY)[0] == dictionary
        if (owner == chosen or beside) and not new.endswith(COUNTER):
            names[new.removeprefix(chosen)] = full  # what no model has will be named as left over
    return Renamed(tensors, names), notes  # pyright: ignore[reportReturnType] (cached properties)


def _prefix(name: str) -> str | None:
    """What stands before a model's names, if the name is its mark."""
    for mark in MARKS:
        if name == mark or name.endswith((f".{mark}", f"{DICTIONARY}{mark}")):
            return name.removesuffix(mark)
    return None


def _choose(models: list[str], *, average: bool) -> tuple[str, tuple[str, ...]]:
    """The prefix of the model to take, and notes; DataError if that is not clear."""
    averages = [prefix for prefix in models if AVERAGE.search(prefix)]
    weights = [prefix for prefix in models if prefix not in averages]
    if len(weights) > 1 or len(averages) > 1:
        raise DataError(
            f"holds {len(models)} models ({', '.join(map(_shown, models))}); save the one that you"
            " want in a file of its own"
        )
    if not averages:
        return weights[0], ()
    if not weights:
        return averages[0], (f"taken is {_shown(averages[0])}, an average; there is no other",)
    both = f"holds weights ({_shown(weights[0])}) and their average ({_shown(averages[0])})"
    if average:
        return averages[0], (f"{both}; taken is the average, --noaverage takes the weights",)
    return weights[0], (f"{both}; taken are the weights, not the average, as asked",)


def _shown(prefix: str) -> str:
    return prefix.rstrip("./") or "without a prefix"
