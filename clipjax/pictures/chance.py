"""What guessing would score, by metric name: the yardstick that curves and tables show."""

import math
from collections.abc import Iterable


def training(batch_size: int) -> dict[str, float]:
    """Of a softmax objective's training metrics, for a global batch of `batch_size` pairs."""
    return {
        "train/loss": math.log(batch_size),
        "train/image_to_text_accuracy": 1 / batch_size,
        "train/text_to_image_accuracy": 1 / batch_size,
    }


def retrieval(
    name: str, *, images: int, texts: int, at: Iterable[int] = (1, 5, 10)
) -> dict[str, float]:
    """Of the retrieval evaluator `name`, over N images with M texts, as many for each image.

    Recall at k by chance is the probability that k candidates drawn without replacement hold at
    least one right one: k / N where an image has one text.
    """
    made = {}
    for k in at:
        made[f"eval/{name}/image_to_text_recall_at_{k}"] = _hit(k, texts, right=texts / images)
        made[f"eval/{name}/text_to_image_recall_at_{k}"] = _hit(k, images, right=1)
    return made


def _hit(k: int, candidates: int, *, right: float) -> float:
    missed = 1.0
    for drawn in range(min(k, candidates)):
        missed *= max(candidates - right - drawn, 0) / (candidates - drawn)
    return 1 - missed


def zero_shot(name: str, *, classes: int) -> dict[str, float]:
    """Of the zero-shot evaluator `name` over C classes: 1 / C, and 5 / C for the top five."""
    return {
        f"eval/{name}/top1_accuracy": 1 / classes,
        f"eval/{name}/top5_accuracy": min(5 / classes, 1),
        f"eval/{name}/mean_per_class_accuracy": 1 / classes,
    }


def loss(name: str, *, batch_size: int) -> dict[str, float]:
    """Of the loss evaluator `name`, where `batch_size` pairs compete."""
    return {f"eval/{name}/loss": math.log(batch_size)}
