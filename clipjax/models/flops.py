"""FLOPs that a model's matrix products need for one image-text pair: the numerator of every MFU.

Counts multiply and add as two, forward plus backward as three forwards, and nothing that is
recomputed: "model FLOPs", as PaLM (Chowdhery et al. 2022, appendix B) defines utilisation.
"""

from collections.abc import Collection, Mapping
from typing import Any

from clipjax.models import config as model_config


def training_flops_per_pair(
    model: Mapping[str, Any], *, frozen: Collection[str] = (), patch_dropout: float = 0.0
) -> float:
    """Model FLOPs of forward and backward for one pair; `model` as `zoo.get` gives it.

    Towers that are `frozen` ("vision", "text") go forward only; `patch_dropout` is the share of an
    image's patches that the blocks do not see.
    """
    forward = {"vision": image_flops(model, patch_dropout=patch_dropout), "text": text_flops(model)}
    return sum(each * (1.0 if tower in frozen else 3.0) for tower, each in forward.items())


def image_flops(model: Mapping[str, Any], *, patch_dropout: float = 0.0) -> float:
    """Forward FLOPs of one image."""
    vision = model["vision"]
    if vision["kind"] == "resnet":
        return _resnet(model)
    patches = model_config.patches(vision)
    width = vision["width"]
    embed = 2.0 * patches * 3 * vision["patch_size"] ** 2 * width
    ratio, tokens = (
        vision["mlp_ratio"],
        model_config.kept_patches(patches, patch_dropout) + vision["class_token"],
    )
    blocks = vision["layers"] * _block(tokens, width=width, mlp_ratio=ratio)
    if vision["pooling"] == "map":  # key and value of every token; the rest of one
        blocks += 2.0 * tokens * (2 * width**2 + 2 * width) + 2.0 * (2 + 2 * ratio) * width**2
    return embed + blocks + 2.0 * width * model["embed_dim"] * vision["projection"]


def _resnet(model: Mapping[str, Any]) -> float:
    """Convolutions, by their output's area times kernel and channels, and the attention pool."""
    vision = model["vision"]
    width, half, area = vision["width"], vision["width"] // 2, (vision["image_size"] // 2) ** 2
    products = area * 9.0 * (3 * half + half * half + half * width)
    area, channels = area // 4, width
    for stage, count in enumerate(vision["layers"]):
        inner = width * 2**stage
        for i in range(count):
            products += area * inner * (channels + 9 * inner)
            if not i:
                area //= 4 if stage else 1
                products += area * channels * 4 * inner
            products += area * inner * 4 * inner
            channels = 4 * inner
    tokens = area + 1  # keys and values of all, query and output of one
    products += 2 * tokens * (channels**2 + channels) + channels**2
    return 2.0 * (products + channels * model["embed_dim"])


def text_flops(model: Mapping[str, Any]) -> float:
    """Forward FLOPs of one caption; all positions count, padding included."""
    text, joint = model["text"], model["embed_dim"]
    if text["kind"] == "bag_of_words":
        return 2.0 * text["width"] * joint
    if text["kind"] == "word_prediction":
        return 2.0 * joint * text["vocab_size"]
    if text["kind"] == "captioning":
        predicted = text["context_length"] - 1
        block = _block(text["prefix"] + predicted, width=text["width"], mlp_ratio=text["mlp_ratio"])
        ends = text["prefix"] * joint + predicted * text["vocab_size"]
        return text["layers"] * block + 2.0 * text["width"] * ends
    blocks = text["layers"] * _block(
        text["context_length"], width=text["width"], mlp_ratio=text["mlp_ratio"]
    )
    return blocks + 2.0 * text["width"] * model["embed_dim"]


def _block(tokens: int, *, width: int, mlp_ratio: float) -> float:
    """Projections 4 D², MLP 2 r D², scores and their product with the values 2 T D, a token."""
    return 2.0 * tokens * ((4 + 2 * mlp_ratio) * width**2 + 2 * tokens * width)
