"""How a training step calls the model: what is differentiated, what goes by the batch's statistics.

`training/step.py` and `accumulate.py` take the two functions that `make_forward` gives.
"""

from collections.abc import Callable
from typing import Any

import jax

from clipjax.models.clip import CLIP

TOWERS = ("vision", "text")


def make_forward(model: CLIP, *, trainable: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(embed, scalars) of a model, some of whose parameters may be frozen.

    No gradient of a frozen parameter is computed, and none at all within a tower that is frozen
    whole: it is evaluated like a function of the data, BatchNorm by its running averages.

    Args:
      model: whose `embed` and `scalars` are called.
      trainable: tree of bool like the parameters.

    Returns:
      embed: (params, batch_stats, image, text[, patches]) → (outputs, new batch_stats), see
        `CLIP.embed`.
      scalars: params → {"logit_scale", perhaps "logit_bias"}, float32 [].
    """
    train = tuple(tower for tower in TOWERS if tower not in frozen_towers(trainable))

    def stop(params: Any) -> Any:
        return jax.tree.map(lambda p, t: p if t else jax.lax.stop_gradient(p), params, trainable)

    def embed(
        params: Any,
        batch_stats: Any,
        image: jax.Array,
        text: jax.Array,
        patches: jax.Array | None = None,
    ) -> Any:
        variables = {"params": stop(params), "batch_stats": batch_stats}
        outputs, changed = model.apply(
            variables,
            image,
            text,
            patches=patches,
            train=train,
            method="embed",
            mutable=["batch_stats"],
        )
        return outputs, dict(changed).get("batch_stats", batch_stats)

    def scalars(params: Any) -> Any:
        return model.apply({"params": stop(params)}, method="scalars")

    return embed, scalars


def frozen_towers(trainable: Any) -> tuple[str, ...]:
    """The towers of which every parameter is frozen."""
    return tuple(tower for tower in TOWERS if not any(jax.tree.leaves(trainable.get(tower, {}))))
