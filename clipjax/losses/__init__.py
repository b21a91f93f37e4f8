"""Contrastive losses by name; `build.py` asks for one, `training/` calls it.

Every loss has one signature:

    loss(image_embed, text_embed, *, logit_scale, logit_bias=None, mesh, batch_axes, positives=None)
        -> (loss, metrics)
"""

from collections.abc import Callable

from clipjax.common import registry

LOSSES = {
    "softmax_gather": "clipjax.losses.softmax:softmax_gather",
    "softmax_ring": "clipjax.losses.softmax:softmax_ring",
    "sigmoid_ring": "clipjax.losses.sigmoid:sigmoid_ring",
}

LIKELIHOOD = "likelihood"  # of captions: what models of `models/prediction.py` are trained with
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
