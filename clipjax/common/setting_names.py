"""Which setting somebody meant: the nearest by name, in whatever group it stands.

closest_setting("optimizer.lr", known)      # ' (did you mean "optimizer.learning_rate"?)'
closest_setting("epochs", known)            # ' (did you mean "total"?)'
"""

import difflib
from collections.abc import Iterable

SIMILAR = 0.6  # difflib's ratio of two names from which one may be a slip for the other
ELSEWHERE = {  # what open_clip, timm and others call it, where the words do not resemble ours
    "accum_freq": "micro_batches",
    "accumulation_steps": "micro_batches",
    "caption_key": "data.text_key",
    "csv_caption_key": "data.text_key",
    "dataset_type": "data.source",
    "epochs": "total",
    "eps": "optimizer.epsilon",
    "grad_checkpointing": "model.vision.remat",
    "lock_image": "optimizer.learning_rate_factors",
    "lock_text": "optimizer.learning_rate_factors",
    "max_steps": "total",
    "mixed_precision": "model.dtype",
    "num_epochs": "total",
    "num_steps": "total",
    "opt": "optimizer.name",
    "precision": "model.dtype",
    "pretrained": "init.weights",
    "resolution": "model.vision.image_size",
    "save_frequency": "checkpoint.every",
    "scheduler": "schedule.name",
    "steps": "total",
    "train_data": "data.path",
}


def closest_setting(name: str, known: Iterable[str]) -> str:
    """' (did you mean "optimizer.learning_rate"?)', or '' where no known setting is near.

    Args:
      name: as it was written, "optimizer.lr" or "lr".
      known: settings with their groups.
    """
    known = list(known)
    last = _last(name).replace("-", "_")
    if ELSEWHERE.get(last) in known:
        return f' (did you mean "{ELSEWHERE[last]}"?)'
    ranked = max(
        known, key=lambda key: (_likeness(last, _last(key)), _ratio(name, key)), default=""
    )
    near = ranked and _likeness(last, _last(ranked)) >= SIMILAR
    return f' (did you mean "{ranked}"?)' if near else ""


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _likeness(name: str, other: str) -> float:
    """How alike two names are, 0 to 1; initials count as the name, "lr" as "learning_rate"."""
    initials = "".join(word[:1] for word in other.split("_"))
    return 1.0 if len(initials) > 1 and name == initials else _ratio(name, other)


def _ratio(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, name, other).ratio()
