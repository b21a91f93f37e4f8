"""The released CLIP models by name, as plain nested dicts; read by configs, `build.py` and users.

Importing this module imports neither jax nor numpy, so configs and `--help` stay quick.
"""

import copy
from collections.abc import Mapping
from typing import Any

from clipjax.common.exits import ConfigError
from clipjax.common.registry import check_name, closest

VOCAB_SIZE = 49_408
CONTEXT_LENGTH = 77


def _vit(
    *,
    embed_dim: int,
    image_size: int,
    patch_size: int,
    width: int,
    layers: int,
    text_width: int,
    text_heads: int,
) -> dict[str, Any]:
    return {
        "embed_dim": embed_dim,
        "activation": "quick_gelu",
        "vision": {
            "image_size": image_size,
            "patch_size": patch_size,
            "width": width,
            "layers": layers,
            "head_width": 64,
            "mlp_ratio": 4,
        },
        "text": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": VOCAB_SIZE,
            "width": text_width,
            "heads": text_heads,
            "layers": 12,
        },
    }


# Radford et al. 2021, tables 19 and 20; heads and MLP ratio from the released model.py.
MODELS: dict[str, dict[str, Any]] = {
    "ViT-B/32": _vit(
        embed_dim=512,
        image_size=224,
        patch_size=32,
        width=768,
        layers=12,
        text_width=512,
        text_heads=8,
    ),
    "ViT-B/16": _vit(
        embed_dim=512,
        image_size=224,
        patch_size=16,
        width=768,
        layers=12,
        text_width=512,
        text_heads=8,
    ),
    "ViT-L/14": _vit(
        embed_dim=768,
        image_size=224,
        patch_size=14,
        width=1024,
        layers=24,
        text_width=768,
        text_heads=12,
    ),
    "ViT-L/14@336px": _vit(
        embed_dim=768,
        image_size=336,
        patch_size=14,
        width=1024,
        layers=24,
        text_width=768,
        text_heads=12,
    ),
}


def get(name: str) -> dict[str, Any]:
    """A fresh copy of the named model's shape, free to be edited.

    Raises ConfigError, naming the closest model, if the name is not one of `MODELS`.
    """
    check_name(name, names=MODELS, kind="model.name")
    return copy.deepcopy(MODELS[name])


_VISION_SIZES = ("image_size", "patch_size", "width", "layers", "head_width")
_TEXT_SIZES = ("context_length", "vocab_size", "width", "heads", "layers")
_KEYS = (
    *("name", "embed_dim", "activation", "logit_bias", "vision", "text"),
    *("scan", "dtype", "param_dtype"),
)


def check(model: Mapping[str, Any]) -> None:
    """Raise ConfigError unless `model` (the dict under config key `model`) is a possible shape.

    Names the first key that is unknown, missing, not a positive number, or does not divide.
    """
    _check_keys(model, known=_KEYS, required=("embed_dim", "vision", "text"), where="model")
    vision, text = model["vision"], model["text"]
    _check_keys(
        vision,
        known=(*_VISION_SIZES, "mlp_ratio", "remat"),
        required=_VISION_SIZES,
        where="model.vision",
    )
    _check_keys(text, known=(*_TEXT_SIZES, "remat"), required=_TEXT_SIZES, where="model.text")
    _check_positive(model["embed_dim"], where="model.embed_dim")
    for key in _VISION_SIZES:
        _check_positive(vision[key], where=f"model.vision.{key}")
    for key in _TEXT_SIZES:
        _check_positive(text[key], where=f"model.text.{key}")
    ratio = vision.get("mlp_ratio", 4)
    if not isinstance(ratio, int | float) or isinstance(ratio, bool) or ratio <= 0:
        raise ConfigError(f"model.vision.mlp_ratio is {ratio!r}; give a number above 0")
    _check_divides(
        vision["image_size"],
        by=vision["patch_size"],
        where="model.vision.image_size",
        other="model.vision.patch_size",
    )
    _check_divides(
        vision["width"],
        by=vision["head_width"],
        where="model.vision.width",
        other="model.vision.head_width",
    )
    _check_divides(
        text["width"], by=text["heads"], where="model.text.width", other="model.text.heads"
    )


def _check_keys(
    record: Mapping[str, Any], *, known: tuple[str, ...], required: tuple[str, ...], where: str
) -> None:
    for key in record:
        if key not in known:
            raise ConfigError(f"{where}.{key} is not a setting{closest(key, known)}")
    for key in required:
        if key not in record:
            raise ConfigError(f"{where}.{key} is missing; give it a value")


def _check_positive(value: Any, *, where: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{where} is {value!r}; give a whole number of at least 1")


def _check_divides(value: int, *, by: int, where: str, other: str) -> None:
    if value % by:
        raise ConfigError(f"{where} is {value}, not a multiple of {other} = {by}; change one")


def parameter_count(name: str) -> int:
    """Number of parameters of the named model, both towers and the logit scale.

    Computed from shapes alone: nothing is allocated. Equals the released models' counts
    (ViT-B/32: 151,277,313). Raises ConfigError if the name is unknown.
    """
    model = get(name)
    import math

    import jax

    from clipjax.models import clip

    parameters = jax.eval_shape(clip.initialise(clip.from_dict(model)), jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters))
