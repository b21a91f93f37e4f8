"""What the settings of a text tower are, by kind; see `shapes.py`."""

import dataclasses

from clipjax.models.shape_fields import REMAT_POLICIES, check_multiple, one_of

TEXT_POOLING = ("end_of_text", "last")
PREDICTING = ("word_prediction", "captioning")  # kinds that give no embedding


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
      remat: as in `VisionConfig`.
    """

    context_length: int
    vocab_size: int
    width: int
    heads: int
    layers: int
    kind: str = "transformer"
    mlp_ratio: float = 4
    causal: bool = True
    pooling: str = one_of(TEXT_POOLING, "end_of_text")
    projection_bias: bool = False
    remat: str = one_of(REMAT_POLICIES, "none")

    def check(self, *, embed_dim: int, where: str) -> None:
        """Raise ConfigError on sizes that do not go together."""
        check_multiple(self, "width", of="heads", where=where)


@dataclasses.dataclass(frozen=True)
class BagOfWordsConfig:
    """The mean of a caption's word embeddings: the text encoder of the paper's Figure 2.

    Attributes:
      kind: "bag_of_words"; chooses this class.
      context_length, vocab_size, width: as in `TextConfig`.
    """

    context_length: int
    vocab_size: int
    width: int
    kind: str = "bag_of_words"

    def check(self, *, embed_dim: int, where: str) -> None:
        """Nothing that must go together."""


@dataclasses.dataclass(frozen=True)
class WordPredictionConfig:
    """The words of its caption, in any order, predicted from the image; see `prediction.py`.

    Attributes:
      kind: "word_prediction"; chooses this class.
      context_length, vocab_size: as in `TextConfig`.
    """

    context_length: int
    vocab_size: int
    kind: str = "word_prediction"

    def check(self, *, embed_dim: int, where: str) -> None:
        """Nothing that must go together."""


@dataclasses.dataclass(frozen=True)
class CaptioningConfig:
    """A language model of the caption with the image as its first tokens; see `prediction.py`.

    Attributes:
      kind: "captioning"; chooses this class.
      prefix: tokens that the image becomes (paper, appendix A.2).
      context_length, vocab_size, width, heads, layers, mlp_ratio, remat: as in `TextConfig`.
    """

    context_length: int
    vocab_size: int
    width: int
    heads: int
    layers: int
    kind: str = "captioning"
    prefix: int = 4
    mlp_ratio: float = 4
    remat: str = one_of(REMAT_POLICIES, "none")

    def check(self, *, embed_dim: int, where: str) -> None:
        """Raise ConfigError on sizes that do not go together."""
        check_multiple(self, "width", of="heads", where=where)


TextTower = TextConfig | BagOfWordsConfig | WordPredictionConfig | CaptioningConfig
