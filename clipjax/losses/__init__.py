"""Contrastive losses by name; `build.program` asks for one, `training.objectives` calls it.

Every loss has one signature:

    loss(image_embed, text_embed, *, logit_scale, logit_bias=None, mesh, batch_axes, positives=None)
        -> (loss, metrics)
"""

import dataclasses
import math
from collections.abc import Callable

from clipjax.common import registry
from clipjax.common.registry import Entry


@dataclasses.dataclass(frozen=True)
class Loss(Entry):
    """A loss by name.

    Attributes:
      guessing: number of pairs → the loss of a model that guesses among them; None if not known.
    """

    guessing: Callable[[int], float] | None = None


LOSSES = {  # of pairs; a softmax over n equal logits is ln n
    "softmax_gather": Loss(
        "clipjax.losses.softmax:softmax_gather", reads=("duplicates",), guessing=math.log
    ),
    "softmax_ring": Loss(
        "clipjax.losses.softmax:softmax_ring", reads=("block_size", "duplicates"), guessing=math.log
    ),
    "sigmoid_ring": Loss(
        "clipjax.losses.sigmoid:sigmoid_ring",
        reads=("block_size", "duplicates"),
        needs=("model.logit_bias",),
    ),
}
LIKELIHOOD = "likelihood"  # of captions: what models that predict them are trained with
NAMES = LOSSES | {LIKELIHOOD: Loss("clipjax.training.objectives:likelihood")}

DUPLICATES = ("positive", "mask")  # what equal images or captions of a batch may be made


def get(name: str) -> Callable:
    """The loss function called `name`, one of `LOSSES`.

    Its arguments: image_embed and text_embed [B, E], float32 or bfloat16, L2-normalised, global
    arrays sharded over `batch_axes` of `mesh`; logit_scale and logit_bias, scalars (the
    multiplier, not its logarithm); positives, a `clipjax.losses.positives.Positives` or None.
    The ring forms also take `block_size` (default 1024), the side of the largest square of
    logits that exists at any one time.

    Returns the loss, a float32 scalar, the mean over the global batch, and a dict of float32
    scalars that carry no gradient: image_to_text_accuracy, text_to_image_accuracy (fractions of
    the global batch; ties count as wrong), positive_logit_mean, negative_logit_mean.

    Raises ConfigError if the name is unknown.
    """
    return registry.lookup(name, table=LOSSES, kind="loss.name")
