"""The public CLIP models by name, as plain nested dicts; read by configs, `build.py` and users.

Importing this module imports neither jax nor numpy, so configs and `--help` stay quick.
"""

from typing import Any

from clipjax.common.registry import check_name
from clipjax.models import config as model_config

VOCAB_SIZE = 49_408
CONTEXT_LENGTH = 77


def _clip(
    *,
    embed_dim: int,
    vision: dict[str, Any],
    text_width: int,
    text_layers: int = 12,
    activation: str = "quick_gelu",
) -> dict[str, Any]:
    """A model of the paper's kind; text heads are 64 wide."""
    return {
        "embed_dim": embed_dim,
        "activation": activation,
        "vision": vision,
        "text": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": VOCAB_SIZE,
            "width": text_width,
            "heads": text_width // 64,
            "layers": text_layers,
        },
    }


def _siglip(
    *,
    vision: dict[str, Any],
    layers: int,
    heads: int,
    mlp_ratio: float = 4.0,
    context_length: int = 64,
) -> dict[str, Any]:
    """A SigLIP model: both towers as wide as the joint space, patches pooled by attention, text
    that looks both ways, read at its last token."""
    width = vision["width"]
    return {
        "embed_dim": width,
        "activation": "gelu_tanh",
        "layer_norm_epsilon": 1e-6,
        "logit_bias": True,
        "image_mean": (0.5, 0.5, 0.5),
        "image_std": (0.5, 0.5, 0.5),
        "image_resize": "squash",
        "vision": vision
        | {
            "layers": layers,
            "head_width": width // heads,
            "mlp_ratio": mlp_ratio,
            "class_token": False,
            "pooling": "map",
            "ln_pre": False,
            "patch_bias": True,
            "projection": False,
        },
        "text": {
            "context_length": context_length,
            "vocab_size": 32_000,
            "width": width,
            "heads": heads,
            "layers": layers,
            "mlp_ratio": mlp_ratio,
            "causal": False,
            "pooling": "last",
            "projection_bias": True,
        },
    }


def _resnet(
    *,
    embed_dim: int,
    image_size: int,
    width: int,
    layers: tuple[int, ...],
    text_width: int,
) -> dict[str, Any]:
    vision = {"kind": "resnet", "image_size": image_size, "width": width, "layers": layers}
    return _clip(embed_dim=embed_dim, vision=vision, text_width=text_width)


_L14 = {"image_size": 224, "patch_size": 14, "width": 1024, "layers": 24}
_H14 = {"image_size": 224, "patch_size": 14, "width": 1280, "layers": 32, "head_width": 80}
_G14 = {"image_size": 224, "patch_size": 14, "width": 1408, "layers": 40, "head_width": 88}
_BIG_G14 = {"image_size": 224, "patch_size": 14, "width": 1664, "layers": 48, "head_width": 104}

MODELS: dict[str, dict[str, Any]] = {
    # Radford et al. 2021, tables 19 and 20; heads and MLP ratio from the released model.py.
    "RN50": _resnet(embed_dim=1024, image_size=224, width=64, layers=(3, 4, 6, 3), text_width=512),
    "RN101": _resnet(embed_dim=512, image_size=224, width=64, layers=(3, 4, 23, 3), text_width=512),
    "RN50x4": _resnet(
        embed_dim=640, image_size=288, width=80, layers=(4, 6, 10, 6), text_width=640
    ),
    "RN50x16": _resnet(
        embed_dim=768, image_size=384, width=96, layers=(6, 8, 18, 8), text_width=768
    ),
    "RN50x64": _resnet(
        embed_dim=1024, image_size=448, width=128, layers=(3, 15, 36, 10), text_width=1024
    ),
    "ViT-B/32": _clip(
        embed_dim=512,
        vision={"image_size": 224, "patch_size": 32, "width": 768, "layers": 12},
        text_width=512,
    ),
    "ViT-B/16": _clip(
        embed_dim=512,
        vision={"image_size": 224, "patch_size": 16, "width": 768, "layers": 12},
        text_width=512,
    ),
    "ViT-L/14": _clip(embed_dim=768, vision=_L14, text_width=768),
    "ViT-L/14@336px": _clip(embed_dim=768, vision=_L14 | {"image_size": 336}, text_width=768),
    # open_clip's shapes; it trains with the exact GELU.
    "ViT-H/14": _clip(
        embed_dim=1024, vision=_H14, text_width=1024, text_layers=24, activation="gelu"
    ),
    "ViT-g/14": _clip(
        embed_dim=1024,
        vision=_G14 | {"mlp_ratio": 4.3637},
        text_width=1024,
        text_layers=24,
        activation="gelu",
    ),
    "ViT-bigG/14": _clip(
        embed_dim=1280,
        vision=_BIG_G14 | {"mlp_ratio": 4.9231},
        text_width=1280,
        text_layers=32,
        activation="gelu",
    ),
    # Zhai et al. 2023, "Sigmoid loss for language image pre-training"; big_vision's two towers.
    "SigLIP-B/16": _siglip(
        vision={"image_size": 224, "patch_size": 16, "width": 768}, layers=12, heads=12
    ),
    "SigLIP-B/16@256px": _siglip(
        vision={"image_size": 256, "patch_size": 16, "width": 768}, layers=12, heads=12
    ),
    "SigLIP-L/16@256px": _siglip(
        vision={"image_size": 256, "patch_size": 16, "width": 1024}, layers=24, heads=16
    ),
    "SigLIP-So400m/14": _siglip(
        vision={"image_size": 224, "patch_size": 14, "width": 1152},
        layers=27,
        heads=16,
        mlp_ratio=3.7362,
        context_length=16,
    ),
}


def get(name: str) -> dict[str, Any]:
    """A fresh copy of the named model's shape, complete and free to be edited.

    Raises ConfigError, naming the closest model, if the name is not one of `MODELS`.
    """
    check_name(name, names=MODELS, kind="model.name")
    return model_config.complete(MODELS[name])


def parameter_count(name: str) -> int:
    """Number of parameters of the named model, both towers and the logit scale.

    Computed from shapes alone: nothing is allocated. Equals the released models' counts
    (ViT-B/32: 151,277,313). Raises ConfigError if the name is unknown.
    """
    model = get(name)
    import math

    import jax

    from clipjax.models import clip

    variables = jax.eval_shape(clip.initialise(clip.from_dict(model)), jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
