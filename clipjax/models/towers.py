"""The towers by kind, and what every model does before them; `clip.py` and `baselines` use it.

The only place that normalises pixels, so that everything before it handles uint8.
"""

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.models import config as settings
from clipjax.models.baselines.bag_of_words import BagOfWords
from clipjax.models.baselines.captioning import CaptionDecoder
from clipjax.models.baselines.word_prediction import WordPredictor
from clipjax.models.compute import Compute
from clipjax.models.config import ClipConfig
from clipjax.models.resnet import ModifiedResNet
from clipjax.models.text import TextTransformer
from clipjax.models.vit import VisionTransformer

MODULES: dict[type, Any] = {
    settings.VisionConfig: VisionTransformer,
    settings.ResNetConfig: ModifiedResNet,
    settings.TextConfig: TextTransformer,
    settings.BagOfWordsConfig: BagOfWords,
    settings.WordPredictionConfig: WordPredictor,
    settings.CaptioningConfig: CaptionDecoder,
}


def normalize_pixels(image: jax.Array, config: ClipConfig) -> jax.Array:
    """uint8 [B, H, W, 3] → float32 [B, H, W, 3] less the model's mean, over its deviation, of
    pixels in [0, 1]."""
    center = 255 * jnp.asarray(config.image_mean, jnp.float32)
    scale = 1 / (255 * jnp.asarray(config.image_std, jnp.float32))
    return (image.astype(jnp.float32) - center) * scale


def build(config: ClipConfig, name: str, *, compute: Compute) -> Any:
    """The module of the tower `name`, "vision" or "text"."""
    tower = config.tower(name)
    return MODULES[type(tower)](tower, config.embed_dim, compute)
