"""FLOPs that a model's matrix products need for one image-text pair: the numerator of every MFU.

Counts multiply and add as two, forward plus backward as three forwards, and nothing that is
recomputed: "model FLOPs", as PaLM (Chowdhery et al. 2022, appendix B) defines utilisation.
"""

from collections.abc import Mapping
from typing import Any


def training_flops_per_pair(model: Mapping[str, Any]) -> float:
    """Model FLOPs of forward and backward for one pair; `model` as in `zoo.MODELS`."""
    return 3.0 * (image_flops(model) + text_flops(model))


def image_flops(model: Mapping[str, Any]) -> float:
    """Forward FLOPs of one image."""
    vision = model["vision"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    width = vision["width"]
    embed = 2.0 * patches * 3 * vision["patch_size"] ** 2 * width
    ratio, tokens = vision["mlp_ratio"], patches + vision["class_token"]
    blocks = vision["layers"] * _block(tokens, width=width, mlp_ratio=ratio)
    if vision["pooling"] == "map":  # key and value of every token; the rest of one
        blocks += 2.0 * tokens * (2 * width**2 + 2 * width) + 2.0 * (2 + 2 * ratio) * width**2
    return embed + blocks + 2.0 * width * model["embed_dim"] * vision["projection"]


def text_flops(model: Mapping[str, Any]) -> float:
    """Forward FLOPs of one caption; all positions count, padding included."""
    text = model["text"]
    blocks = text["layers"] * _block(
        text["context_length"], width=text["width"], mlp_ratio=text["mlp_ratio"]
    )
    return blocks + 2.0 * text["width"] * model["embed_dim"]


def _block(tokens: int, *, width: int, mlp_ratio: float) -> float:
    """Projections 4 D², MLP 2 r D², scores and their product with the values 2 T D, a token."""
    return 2.0 * tokens * ((4 + 2 * mlp_ratio) * width**2 + 2 * tokens * width)
