"""The towers by kind: each dataclass of settings has its module, which `build` makes."""

from typing import Any

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


def build(config: ClipConfig, name: str, *, compute: Compute) -> Any:
    """The module of the tower `name`, "vision" or "text"."""
    tower = config.tower(name)
    return MODULES[type(tower)](tower, config.embed_dim, compute)
