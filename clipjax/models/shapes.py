"""What a model's settings are, what they default to, and which are possible; read without jax.

The nested dict under config key `model` has these fields, by name. A weight file's importer writes
the same dict, so that what a model computes follows from its settings and never from its name.
`config.py` shows them, `zoo.py` holds the released ones, `clip.py` builds the modules.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from clipjax.common.exits import ConfigError
from clipjax.common.registry import check_name, closest
from clipjax.models.shape_fields import REMAT_POLICIES, check_multiple, one_of
from clipjax.models.text_shapes import (
    BagOfWordsConfig,
    CaptioningConfig,
    TextConfig,
    TextTower,
    WordPredictionConfig,
)

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_tanh")
DTYPES = ("float32", "bfloat16", "float16")
VISION_POOLING = ("token", "map", "mean")

# Per channel, red green blue, of pixels in [0, 1] (released clip.py).
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """A Vision Transformer. The defaults are the released towers' (paper section 2.4).

    Attributes:
      kind: "vit"; chooses this class.
      image_size, patch_size: pixels a side.
      width: D, features of a token.
      layers: blocks.
      head_width: K, features of an attention head.
      mlp_ratio: inner width of the MLPs over D; the product is rounded.
      class_token: a learned token before the patches.
      pooling: "token" takes the class token, "map" one learned query's attention over all tokens
        and an MLP (Zhai et al. 2022, "Scaling vision transformers"), "mean" the tokens' mean.
      ln_pre: a LayerNorm before the blocks.
      patch_bias: a bias in the patch embedding.
      projection: a matrix from D to the joint space; without one D is the joint dimension.
      remat: what the backward pass makes again instead of keeping, see `transformer.py`.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    head_width: int = 64
    kind: str = "vit"
    mlp_ratio: float = 4
    class_token: bool = True
    pooling: str = one_of(VISION_POOLING, "token")
    ln_pre: bool = True
    patch_bias: bool = False
    projection: bool = True
    remat: str = one_of(REMAT_POLICIES, "none")

    def check(self, *, embed_dim: int, where: str) -> None:
        """Raise ConfigError on sizes that do not go together."""
        check_multiple(self, "image_size", of="patch_size", where=where)
        check_multiple(self, "width", of="head_width", where=where)
        if self.pooling == "token" and not self.class_token:
            raise ConfigError(
                f'{where}.pooling is "token", but {where}.class_token=False; take "map" or "mean"'
            )
        if not self.projection and self.width != embed_dim:
            raise ConfigError(
                f"{where}.projection=False needs {where}.width = embed_dim, not {self.width} and"
                f" {embed_dim}"
            )


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """One of the paper's modified ResNets (section 2.4), see `resnet.py`.

    Attributes:
      kind: "resnet"; chooses this class.
      image_size: pixels a side.
      width: features of the stem, doubled by each stage; the last map has 32 times as many.
      layers: blocks of each stage.
      head_width: K, features of a head of the attention pool.
      remat: "none" keeps all, any other makes the blocks' insides again.
    """

    image_size: int
    width: int
    layers: tuple[int, ...]
    kind: str = "resnet"
    head_width: int = 64
    remat: str = one_of(REMAT_POLICIES, "none")

    def check(self, *, embed_dim: int, where: str) -> None:
        """Raise ConfigError on sizes that do not go together."""
        blocks = self.layers if isinstance(self.layers, tuple | list) else ()
        if not blocks or not all(isinstance(count, int) and count > 0 for count in blocks):
            raise ConfigError(
                f"{where}.layers is {self.layers!r}; give each stage's blocks, (3, 4, 6, 3)"
            )
        side = 2 ** (1 + len(blocks))
        if self.image_size % side:
            raise ConfigError(
                f"{where}.image_size is {self.image_size}, not a multiple of {side}, by which"
                f" {len(blocks)} stages reduce it"
            )
        features = self.width * side
        if self.width % 2 or features % self.head_width:
            raise ConfigError(
                f"{where}.width is {self.width}; it must be even, and its {features} features at"
                f" the end a multiple of {where}.head_width = {self.head_width}"
            )


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Both towers, what they share, and how they compute.

    Attributes:
      embed_dim: E, of the joint space.
      activation: of the MLPs: "quick_gelu" as released, "gelu" exact, "gelu_tanh" approximate.
      layer_norm_epsilon: PyTorch's default, which the released models use, is 1e-5, Flax's 1e-6.
      logit_bias: a learned bias of the logits, which the sigmoid loss needs.
      image_mean, image_std: of pixels in [0, 1], red green blue.
      image_resize: how images become squares: "crop" the shorter side's, "squash" both sides.
      scan: one compiled block a tower.
      dtype: of matrix products and activations.
      param_dtype: of parameters.
    """

    embed_dim: int
    vision: VisionConfig
    text: TextTower
    activation: str = one_of(ACTIVATIONS, "quick_gelu")
    layer_norm_epsilon: float = 1e-5
    logit_bias: bool = False
    image_mean: tuple[float, float, float] = IMAGE_MEAN
    image_std: tuple[float, float, float] = IMAGE_STD
    image_resize: str = one_of(("crop", "squash"), "crop")
    scan: bool = True
    dtype: str = one_of(DTYPES, "float32")
    param_dtype: str = one_of(DTYPES, "float32")


TOWERS: dict[str, dict[str, Any]] = {
    "vision": {"vit": VisionConfig, "resnet": ResNetConfig},
    "text": {
        "transformer": TextConfig,
        "bag_of_words": BagOfWordsConfig,
        "word_prediction": WordPredictionConfig,
        "captioning": CaptioningConfig,
    },
}

# Fields that do not say what is computed, only how; and the loss chooses whether there is a bias.
NOT_SHAPE = ("scan", "dtype", "param_dtype", "remat", "logit_bias")


def parse(model: Mapping[str, Any], *, where: str = "model") -> ClipConfig:
    """The settings that a nested dict gives, with defaults for what it leaves out.

    A key `name` is a label and ignored. Raises ConfigError naming the key, under `where`, that is
    unknown, missing or impossible.
    """
    _check_keys(model, ClipConfig, where=where, ignored=("name",))
    fields = {key: value for key, value in model.items() if key != "name"}
    for tower, kinds in TOWERS.items():
        kind = model[tower].get("kind", next(iter(kinds)))
        check_name(kind, names=kinds, kind=f"{where}.{tower}.kind")
        _check_keys(model[tower], kinds[kind], where=f"{where}.{tower}")
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in model[tower].items()}
        fields[tower] = kinds[kind](**given)
        _check_values(fields[tower], where=f"{where}.{tower}")
    for key in ("image_mean", "image_std"):
        fields[key] = tuple(fields.get(key, getattr(ClipConfig, key)))
        if len(fields[key]) != 3:
            raise ConfigError(f"{where}.{key} is {fields[key]}; give three numbers, red green blue")
    config = ClipConfig(**fields)
    _check_values(config, where=where)
    for tower in TOWERS:
        fields[tower].check(embed_dim=config.embed_dim, where=f"{where}.{tower}")
    return config


def complete(model: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings with every default written out; without `NOT_SHAPE`, unless given."""
    full = dataclasses.asdict(parse(model))
    for section, given in ((full, model), *((full[t], model[t]) for t in ("vision", "text"))):
        for key in NOT_SHAPE:
            if key in section and key not in given:
                del section[key]
    return full


def _check_keys(
    record: Mapping[str, Any], kind: Any, *, where: str, ignored: tuple[str, ...] = ()
) -> None:
    known = {field.name: field for field in dataclasses.fields(kind)}
    for key in record:
        if key not in known and key not in ignored:
            raise ConfigError(f"{where}.{key} is not a setting{closest(key, known)}")
    for key, field in known.items():
        if key not in record and field.default is dataclasses.MISSING:
            raise ConfigError(f"{where}.{key} is missing; give it a value")


def _check_values(section: Any, *, where: str) -> None:
    """Raise ConfigError on the first value of another type than its field's, or out of range."""
    for field in dataclasses.fields(section):
        value, name = getattr(section, field.name), f"{where}.{field.name}"
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if field.type is int and not (isinstance(value, int) and number and value > 0):
            raise ConfigError(f"{name} is {value!r}; give a whole number of at least 1")
        if field.type is float and not (number and value > 0):
            raise ConfigError(f"{name} is {value!r}; give a number above 0")
        if field.type is bool and not isinstance(value, bool):
            raise ConfigError(f"{name} is {value!r}; give True or False")
        if "names" in field.metadata:
            check_name(str(value), names=field.metadata["names"], kind=name)


def patches(vision: Mapping[str, Any]) -> int:
    """How many an image has; 0 of a ResNet."""
    if vision["kind"] == "resnet":
        return 0
    return (vision["image_size"] // vision["patch_size"]) ** 2


def kept_patches(patches: int, dropped: float) -> int:
    """How many of an image's patches a training step sees, at least 1; `dropped` is a share."""
    return max(round(patches * (1 - dropped)), 1)
