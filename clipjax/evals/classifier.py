"""Zero-shot classifiers: one vector a class, kept in a folder by (weights, prompts)."""

import dataclasses
import io
from typing import Any

import numpy as np
from etils import epath

from clipjax.common import files
from clipjax.evals import embed, prompts
from clipjax.evals.protocols import zero_shot
from clipjax.parallel import distributed


@dataclasses.dataclass(frozen=True)
class Classifier:
    """float32 [C, E] twice, L2-normalised: of all prompts together, and of each class's first."""

    ensemble: np.ndarray
    single: np.ndarray


def of_prompts(
    asked: prompts.Prompts,
    *,
    embedder: embed.Embedder,
    variables: Any,
    tokenizer: Any,
    weights: str,
    folder: str,
    where: str,
) -> Classifier:
    """The classifier, out of the folder or made and kept there; all processes call it.

    Args:
      asked: the prompts; their hash is half of the file's name.
      weights: id of `variables`, the other half.
      folder: "" keeps nothing.
      where: for errors.

    Raises:
      ConfigError: a prompt is longer than the model's context.
    """
    file = epath.Path(folder) / f"{weights}_{asked.hash}.npz" if folder else None
    kept = distributed.from_lead(_read(file) if file and distributed.is_lead() else b"")
    if kept:
        arrays = np.load(io.BytesIO(kept), allow_pickle=False)
        return Classifier(arrays["ensemble"], arrays["single"])
    texts, owners, singles = asked.texts()
    zero_shot.check_fit(texts, tokenizer=tokenizer, where=where)
    text_embed = embedder.texts(variables, texts, tokenizer=tokenizer, poll=lambda: False)
    made = Classifier(zero_shot.class_weights(text_embed, owners=owners), text_embed[singles])
    if file and distributed.is_lead():
        files.write_arrays(file, {"ensemble": made.ensemble, "single": made.single})
    return made


def _read(file: Any) -> bytes:
    """The file's bytes where it holds a classifier, else none."""
    try:
        content = file.read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return content if {"ensemble", "single"} <= set(arrays.files) else b""
    except Exception:  # damage shows in more ways than can be listed; it is made again
        return b""
