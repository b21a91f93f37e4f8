"""What the formats of SigLIP's family share: the model that sizes describe."""

from collections.abc import Mapping
from typing import Any

from clipjax.common.exits import DataError
from clipjax.models import config as model_config

SHARED = {  # what a model must be to have a form there
    "vision": {
        "class_token": False,
        "pooling": "map",
        "ln_pre": False,
        "patch_bias": True,
        "projection": False,
    },
    "text": {"causal": False, "pooling": "last", "projection_bias": True},
}


def model(
    *,
    width: int,
    heads: int,
    vision: Mapping[str, Any],
    text: Mapping[str, Any],
    activation: str = "gelu_tanh",
    epsilon: float = 1e-6,
) -> dict[str, Any]:
    """The model, as of `zoo.MODELS`.

    Args:
      width: of the image tower, which is the joint space's too.
      heads: of the image tower.
      vision: image_size, patch_size, layers, mlp_ratio.
      text: context_length, vocab_size, width, heads, layers, mlp_ratio.
      activation: of the MLPs.
      epsilon: of the LayerNorms.
    """
    return {
        "embed_dim": width,
        "activation": activation,
        "layer_norm_epsilon": epsilon,
        "logit_bias": True,
        "image_mean": (0.5, 0.5, 0.5),
        "image_std": (0.5, 0.5, 0.5),
        "image_resize": "squash",
        "vision": {"width": width, "head_width": width // heads, **vision, **SHARED["vision"]},
        "text": {**text, **SHARED["text"]},
    }


def is_siglip(model: Mapping[str, Any]) -> bool:
    """Whether our model is of SigLIP's kind."""
    full = model_config.complete(model)
    return bool(full.get("logit_bias")) and all(
        full[tower].get(key) == value
        for tower, settings in SHARED.items()
        for key, value in settings.items()
    )


def check(model: Mapping[str, Any], *, where: str) -> None:
    """Raise DataError unless our model is of SigLIP's kind; `where` names the program."""
    if not is_siglip(model):
        raise DataError(f"{where} has no model like this one, neither CLIP nor SigLIP")
