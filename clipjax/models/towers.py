"""The towers by kind, and what every model does before them; `clip.py` and `prediction.py` use it.

The only place that normalises pixels, so that everything before it handles uint8.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.models.captioning import CaptionDecoder
from clipjax.models.kernels.rows import Place
from clipjax.models.resnet import ModifiedResNet
from clipjax.models.shapes import ClipConfig
from clipjax.models.text import BagOfWords, TextTransformer
from clipjax.models.transformer import Constrain
from clipjax.models.vit import VisionTransformer
from clipjax.models.words import WordPredictor

KINDS: dict[str, Any] = {
    "vit": VisionTransformer,
    "resnet": ModifiedResNet,
    "transformer": TextTransformer,
    "bag_of_words": BagOfWords,
    "word_prediction": WordPredictor,
    "captioning": CaptionDecoder,
}


def identity(x: jax.Array) -> jax.Array:
    """x: the default of a model's `constrain`, for one device."""
    return x


def normalize_pixels(image: jax.Array, config: ClipConfig) -> jax.Array:
    """uint8 [B, H, W, 3] → float32 [B, H, W, 3] less the model's mean, over its deviation, of
    pixels in [0, 1]."""
    center = 255 * jnp.asarray(config.image_mean, jnp.float32)
    scale = 1 / (255 * jnp.asarray(config.image_std, jnp.float32))
    return (image.astype(jnp.float32) - center) * scale


def build(tower: Any, *, config: ClipConfig, constrain: Constrain, place: Place | None) -> Any:
    """A tower from its settings and from what both share, as far as it knows them."""
    module = KINDS[tower.kind]
    shared = {
        "embed_dim": config.embed_dim,
        "activation": config.activation,
        "epsilon": config.layer_norm_epsilon,
        "scan": config.scan,
        "dtype": jnp.dtype(config.dtype),
        "param_dtype": jnp.dtype(config.param_dtype),
        "constrain": constrain,
        "place": place,
    }
    known = {field.name for field in dataclasses.fields(module)}
    settings = {key: value for key, value in vars(tower).items() if key != "kind"}
    return module(**settings, **{key: value for key, value in shared.items() if key in known})
