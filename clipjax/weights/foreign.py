"""A model in another program's files, opened: what every format's `open` returns."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from clipjax.common import trees
from clipjax.common.exits import ConfigError, DataError
from clipjax.data.tokenizers import Tokenizer
from clipjax.models import clip
from clipjax.models import config as model_config
from clipjax.weights import arrays

LARGEST = 1 << 31  # that any size in a configuration may be
MOST_BLOCKS = 1000  # of a ResNet, which has no scan: each is traced
LONGEST = 300  # characters of what is wrong with settings
BATCH_STATS = "batch_stats"


@dataclasses.dataclass(frozen=True)
class Foreign:
    """Opened, not yet read.

    Attributes:
      origin: format and path, for people.
      model: nested dict as of `zoo.MODELS`, inferred from the files.
      tensors: the open weights.
      layout: of this model in this format.
      ignored: regexes of names that hold no weights.
      find_tokenizer: makes the model's tokenizer; a file that the user named comes first.
      notes: what the files leave open and clipjax took, a line each, for people.
    """

    origin: str
    model: dict[str, Any]
    tensors: arrays.Tensors
    layout: arrays.Layout
    ignored: tuple[str, ...]
    find_tokenizer: Callable[[str], Tokenizer]
    notes: tuple[str, ...] = ()

    def variables(self, *, keep_half: bool = False) -> dict[str, Any]:
        """`params` and `batch_stats`, numpy, in the layout of scan=True.

        Args:
          keep_half: float16 and bfloat16 stay what they are; else all is float32.

        Raises:
          DataError: the weights are damaged, or not what the configuration describes.
        """
        params = arrays.read(
            self.tensors,
            layout=self.layout,
            shapes=shapes_of(self.model),
            ignored=self.ignored,
            keep_half=keep_half,
        )
        stats = params.pop(BATCH_STATS, {})
        return {"params": params, BATCH_STATS: stats}

    def tokenizer(self, named: str = "") -> Tokenizer:
        """The model's tokenizer.

        Args:
          named: a file to take instead of the folder's or an installed package's.

        Raises:
          ConfigError: there is none, or its vocabulary is not the model's.
        """
        tokenizer = self.find_tokenizer(named)
        if tokenizer.vocab_size != self.model["text"]["vocab_size"]:
            raise ConfigError(
                f"{self.origin}: its vocabulary has {self.model['text']['vocab_size']:,} ids,"
                f" {named or 'the tokenizer found'} makes {tokenizer.vocab_size:,}; name the right"
                " file with --tokenizer"
            )
        return tokenizer


def checked(model: dict[str, Any]) -> dict[str, Any]:
    """The model with every default; DataError if none has such sizes."""
    try:
        return model_config.complete(model)
    except ConfigError as error:
        raise DataError(f"no model has such sizes: {str(error)[:LONGEST]}") from None


def shapes_of(model: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Our parameters' shapes, in the layout of scan=True, and under BATCH_STATS/ those of
    BatchNorm's averages; nothing is allocated.

    Raises:
      DataError: no model has such sizes.
    """
    try:
        for tower in (model, model["vision"], model["text"]):
            for key, value in tower.items():
                if isinstance(value, int) and not 0 <= value < LARGEST:
                    raise ConfigError(f"{key} = {value}")
                if key == "layers" and not isinstance(value, int) and sum(value) > MOST_BLOCKS:
                    raise ConfigError(f"{key} = {value}")
        module = clip.from_dict({**model, "scan": True})
        variables = jax.eval_shape(clip.initialise(module), jax.random.key(0))
    except (ConfigError, TypeError, OverflowError, ZeroDivisionError) as error:
        raise DataError(f"no model has such sizes: {error}") from None
    stats = {BATCH_STATS: variables[BATCH_STATS]} if BATCH_STATS in variables else {}
    named = trees.named_leaves({**variables["params"], **stats})
    return {name: tuple(leaf.shape) for name, leaf in named}
