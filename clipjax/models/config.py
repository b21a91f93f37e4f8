"""What a model's settings are, what they default to, and which are possible; read without jax.

The nested dict under config key `model` has these fields, by name. A weight file's importer writes
the same dict, so that what a model computes follows from its settings and never from its name.
`clipjax.config` shows them, `zoo.py` holds the released ones, `clip.py` builds the modules.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from clipjax.common import ranges
from clipjax.common.exits import ConfigError
from clipjax.common.ranges import check_fields, listed, named, number
from clipjax.common.registry import check_name, closest

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_tanh")
DTYPES = ("float32", "bfloat16")
REMAT_POLICIES = ("none", "block", "mlp", "dots")
VISION_POOLING = ("token", "map", "mean")
TEXT_POOLING = ("end_of_text", "last")
PREDICTING = ("word_prediction", "captioning")  # kinds of text tower that give no embedding

# Per channel, red green blue, of pixels in [0, 1] (released clip.py).
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
MEANS, DEVIATIONS = (
    listed(each, counts=range(3, 4), kind="three numbers, red green blue")
    for each in (number(0, at_most=1), number(above=0, at_most=1))
)
OWN_EPSILON = number(above=0, at_most=1, also="0 for the model's")


def check_multiple(tower: Any, key: str, *, of: str, where: str) -> None:
    """Raise ConfigError unless one setting of a tower is a multiple of another."""
    value, divisor = getattr(tower, key), getattr(tower, of)
    if value % divisor:
        raise ConfigError(
            f"{where}.{key} is {value}, not a multiple of {where}.{of} = {divisor}; change one"
        )


def check_heads(tower: Any, key: str, *, where: str) -> None:
    """Raise ConfigError unless a tower's width divides into heads, and its MLPs have features."""
    check_multiple(tower, "width", of=key, where=where)
    if round(tower.width * tower.mlp_ratio) < 1:
        raise ConfigError(
            f"{where}.mlp_ratio is {tower.mlp_ratio}; its product with {where}.width ="
            f" {tower.width} must be at least 1"
        )


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """The blocks of a transformer, as `transformer.py` builds them.

    Attributes:
      layers: how many.
      heads: H, attention heads.
      mlp_width: F, inner features of the MLPs.
      activation, layer_norm_epsilon, remat: as in the towers.
      causal: no token sees those after it.
    """

    layers: int
    heads: int
    mlp_width: int
    activation: str
    layer_norm_epsilon: float
    remat: str = "none"
    causal: bool = False


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
      activation, layer_norm_epsilon: of this tower; "" and 0 take the model's, see `ClipConfig`.
      remat: what the backward pass makes again instead of keeping, see `transformer.py`.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    head_width: int = 64
    kind: str = "vit"
    mlp_ratio: float = 4.0
    class_token: bool = True
    pooling: str = named(VISION_POOLING, "token")
    ln_pre: bool = True
    patch_bias: bool = False
    projection: bool = True
    activation: str = named(("", *ACTIVATIONS), "")
    layer_norm_epsilon: float = ranges.field(OWN_EPSILON, 0.0)
    remat: str = named(REMAT_POLICIES, "none")

    @property
    def heads(self) -> int:
        """H, attention heads."""
        return self.width // self.head_width

    @property
    def patches(self) -> int:
        """N, patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens(self) -> int:
        """T, what the blocks see of an image."""
        return self.patches + self.class_token

    @property
    def blocks(self) -> BlockConfig:
        """The tower's blocks."""
        return _blocks(self, causal=False)

    def check(self, *, embed_dim: int, where: str) -> None:
        """Raise ConfigError on sizes that do not go together."""
        check_multiple(self, "image_size", of="patch_size", where=where)
        check_heads(self, "head_width", where=where)
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
    remat: str = named(REMAT_POLICIES, "none")

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
class TextConfig:
    """A text transformer. The defaults are the released towers' (paper section 2.4).

    Attributes:
      kind: "transformer"; chooses this class.
      context_length: T, tokens of a caption, start and end included.
      vocab_size: counts the start and end tokens.
      width, heads, layers, mlp_ratio: as in `VisionConfig`; a head has width / heads features.
      causal: no token sees those after it.
      pooling: "end_of_text" takes the first token of the largest id, "last" the last of all T.
      projection_bias: a bias after the projection into the joint space.
      activation, layer_norm_epsilon, remat: as in `VisionConfig`.
    """

    context_length: int
    vocab_size: int
    width: int
    heads: int
    layers: int
    kind: str = "transformer"
    mlp_ratio: float = 4.0
    causal: bool = True
    pooling: str = named(TEXT_POOLING, "end_of_text")
    projection_bias: bool = False
    activation: str = named(("", *ACTIVATIONS), "")
    layer_norm_epsilon: float = ranges.field(OWN_EPSILON, 0.0)
    remat: str = named(REMAT_POLICIES, "none")

    @property
    def tokens(self) -> int:
        """T, what the blocks see of a caption."""
        return self.context_length

    @property
    def blocks(self) -> BlockConfig:
        """The tower's blocks."""
        return _blocks(self, causal=self.causal)

    def check(self, *, embed_dim: int, where: str) -> None:
        """Raise ConfigError on sizes that do not go together."""
        check_heads(self, "heads", where=where)


@dataclasses.dataclass(frozen=True)
class BagOfWordsConfig:
    """The mean of a caption's word embeddings: the text encoder of the paper's Figure 2.

    Attributes:
      kind: "bag_of_words"; chooses this class.
      context_length, vocab_size, width, layer_norm_epsilon: as in `TextConfig`.
    """

    context_length: int
    vocab_size: int
    width: int
    kind: str = "bag_of_words"
    layer_norm_epsilon: float = ranges.field(OWN_EPSILON, 0.0)

    def check(self, *, embed_dim: int, where: str) -> None:
        """Check nothing: no settings of this tower must go together."""


@dataclasses.dataclass(frozen=True)
class WordPredictionConfig:
    """The words of its caption, in any order, predicted from the image; see `baselines`.

    Attributes:
      kind: "word_prediction"; chooses this class.
      context_length, vocab_size: as in `TextConfig`.
    """

    context_length: int
    vocab_size: int
    kind: str = "word_prediction"

    def check(self, *, embed_dim: int, where: str) -> None:
        """Check nothing: no settings of this tower must go together."""


@dataclasses.dataclass(frozen=True)
class CaptioningConfig:
    """A language model of the caption with the image as its first tokens; see `baselines`.

    Attributes:
      kind: "captioning"; chooses this class.
      prefix: tokens that the image becomes (paper, appendix A.2).
      context_length, vocab_size, width, heads, layers, mlp_ratio, activation, layer_norm_epsilon,
        remat: as in `TextConfig`.
    """

    context_length: int
    vocab_size: int
    width: int
    heads: int
    layers: int
    kind: str = "captioning"
    prefix: int = 4
    mlp_ratio: float = 4.0
    activation: str = named(("", *ACTIVATIONS), "")
    layer_norm_epsilon: float = ranges.field(OWN_EPSILON, 0.0)
    remat: str = named(REMAT_POLICIES, "none")

    @property
    def tokens(self) -> int:
        """T, what the blocks see of an image and its caption."""
        return self.prefix + self.context_length - 1

    @property
    def blocks(self) -> BlockConfig:
        """The tower's blocks."""
        return _blocks(self, causal=True)

    def check(self, *, embed_dim: int, where: str) -> None:
        """Raise ConfigError on sizes that do not go together."""
        check_heads(self, "heads", where=where)


def _blocks(tower: Any, *, causal: bool) -> BlockConfig:
    return BlockConfig(
        layers=tower.layers,
        heads=tower.heads,
        mlp_width=round(tower.width * tower.mlp_ratio),
        activation=tower.activation,
        layer_norm_epsilon=tower.layer_norm_epsilon,
        remat=tower.remat,
        causal=causal,
    )


VisionTower = VisionConfig | ResNetConfig
TextTower = TextConfig | BagOfWordsConfig | WordPredictionConfig | CaptioningConfig


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Both towers, what they share, and how they compute.

    Attributes:
      embed_dim: E, of the joint space.
      activation: of the MLPs of towers that name none: "quick_gelu" as released, "gelu" exact,
        "gelu_tanh" approximate.
      layer_norm_epsilon: of towers that name none; PyTorch's default, which the released models
        use, is 1e-5, Flax's 1e-6.
      logit_bias: a learned bias of the logits, which the sigmoid loss needs.
      image_mean, image_std: of pixels in [0, 1], red green blue.
      image_resize: how images become squares: "crop" the shorter side's, "squash" both sides.
      scan: one compiled block a tower.
      dtype: of matrix products and activations.
      param_dtype: of parameters.
    """

    embed_dim: int
    vision: VisionTower
    text: TextTower
    activation: str = named(ACTIVATIONS, "quick_gelu")
    layer_norm_epsilon: float = ranges.field(number(above=0, at_most=1), 1e-5)
    logit_bias: bool = False
    image_mean: tuple[float, float, float] = ranges.field(MEANS, IMAGE_MEAN)
    image_std: tuple[float, float, float] = ranges.field(DEVIATIONS, IMAGE_STD)
    image_resize: str = named(("crop", "squash"), "crop")
    scan: bool = True
    dtype: str = named(DTYPES, "float32")
    param_dtype: str = named(DTYPES, "float32")

    def tower(self, name: str) -> Any:
        """The settings of "vision" or "text", with the model's where it has none of its own."""
        tower = getattr(self, name)
        inherited = {
            key: getattr(self, key)
            for key in ("activation", "layer_norm_epsilon")
            if not getattr(tower, key, True)
        }
        return dataclasses.replace(tower, **inherited)


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
    fields = {key: ranges.as_tuple(value) for key, value in model.items() if key != "name"}
    for tower, kinds in TOWERS.items():
        if not isinstance(model[tower], Mapping):
            raise ConfigError(f"{where}.{tower} is {ranges.shown(model[tower])}; give its settings")
        kind = model[tower].get("kind", next(iter(kinds)))
        check_name(kind, names=kinds, kind=f"{where}.{tower}.kind")
        _check_keys(model[tower], kinds[kind], where=f"{where}.{tower}")
        fields[tower] = kinds[kind](**{k: ranges.as_tuple(v) for k, v in model[tower].items()})
        check_fields(fields[tower], where=f"{where}.{tower}")
    config = ClipConfig(**fields)
    check_fields(config, where=where)
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


def uniform(model: Mapping[str, Any]) -> dict[str, Any]:
    """`complete`, for formats that have one activation and one epsilon for both towers.

    Raises:
      ConfigError: the towers differ.
    """
    full, config = complete(model), parse(model)
    for key in ("activation", "layer_norm_epsilon"):
        towers = [getattr(config.tower(name), key, None) for name in TOWERS]
        values = {value for value in towers if value is not None}
        if len(values) > 1:
            raise ConfigError(
                f"model.vision.{key}={towers[0]} and model.text.{key}={towers[1]}: this format has"
                " one for both towers; write --format=clipjax"
            )
        full[key] = values.pop()
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


def patches(vision: Mapping[str, Any]) -> int:
    """How many an image has; 0 of a ResNet."""
    if vision["kind"] == "resnet":
        return 0
    return (vision["image_size"] // vision["patch_size"]) ** 2


def kept_patches(patches: int, dropped: float) -> int:
    """How many of an image's patches a training step sees, at least 1; `dropped` is a share."""
    return max(round(patches * (1 - dropped)), 1)
