"""Which pairs of a batch match: the diagonal, and duplicates if asked for. Used by all losses."""

import dataclasses
from functools import partial

import jax

from clipjax import losses
from clipjax.common.registry import check_name


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["image_id", "text_id"],
    meta_fields=["mode"],
)
@dataclasses.dataclass(frozen=True)
class Positives:
    """Hash ids by which a loss finds duplicates in the global batch.

    image_id, text_id: uint32 [B], sharded as the embeddings are. Image i and text j are
    duplicates if image_id[i] == image_id[j] or text_id[i] == text_id[j].
    mode: "positive" makes duplicates matching pairs (softmax spreads the target of a row evenly
    over its matching pairs; sigmoid labels them +1); "mask" leaves them out of the negatives.

    Raises ConfigError if the mode is unknown.
    """

    image_id: jax.Array
    text_id: jax.Array
    mode: str = "positive"

    def __post_init__(self):
        check_name(self.mode, names=losses.DUPLICATES, kind="positives.mode")


def pair_masks(x: dict, y: dict, *, mode: str | None) -> tuple[jax.Array, jax.Array]:
    """Bool [b, c] masks (positive, negative) of rows x [b] against rows y [c].

    x and y hold `index` int32, the row's place in the global batch; unless mode is None,
    `image_id` and `text_id`; and `real` int32, 0 for padding, if there is padding. A pair in
    neither mask takes no part in the loss. The relation is symmetric: exchanging x and y
    transposes the masks, so one function serves images against texts and texts against images.
    """
    positive = x["index"][:, None] == y["index"][None, :]
    matching = positive
    if mode is not None:
        matching |= x["image_id"][:, None] == y["image_id"][None, :]
        matching |= x["text_id"][:, None] == y["text_id"][None, :]
    if mode == "positive":
        positive = matching
    negative = ~matching
    if "real" in x:
        real = (x["real"][:, None] & y["real"][None, :]) == 1
        positive, negative = positive & real, negative & real
    return positive, negative
