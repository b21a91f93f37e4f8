"""The run's own contrastive loss on held-out pairs, in batches of a fixed size.

The same function as in training: softmax or sigmoid, with the model's scale and bias, embeddings
cast as there, and equal pairs of a batch taken as `config.loss.duplicates` says.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clipjax import losses
from clipjax.common.counts import counted
from clipjax.data import eval_batches
from clipjax.data.examples import read
from clipjax.data.same_image import content_id
from clipjax.evals import embed, notes
from clipjax.models.clip import CLIP
from clipjax.parallel import mesh as meshes
from clipjax.parallel.mesh import BATCH_AXES
from clipjax.training import objectives
from clipjax.training.objectives import Objective

PLAIN = objectives.contrastive("softmax_gather", embed_dtype="float32")
ONE_DEVICE = {"data": 1, "fsdp": 1, "tensor": 1}


def make_evaluator(
    model: CLIP,
    *,
    source: Any,
    tokenizer: Any,
    image_size: int,
    mesh: Mesh,
    batch_size: int,
    objective: Objective = PLAIN,
    name: str = "softmax_gather",
    duplicates: str = "negative",
    pairs_in_training: int = 0,
) -> embed.Evaluator:
    """{"loss": …} over `source`, images with their first captions, `batch_size` competing.

    Args:
      objective: the run's, see `training.objectives`.
      name: of its loss.
      duplicates: what it makes of equal images and captions, `config.loss.duplicates`.
      pairs_in_training: that compete there; 0 is not known.
    """
    texts, text_image = eval_batches.eval_caption_list(source)
    firsts = [texts[i] for i in np.unique(text_image, return_index=True)[1]]
    embedder = embed.Embedder(model, mesh=mesh, batch_size=batch_size)
    scalars_of = jax.jit(lambda params: model.apply({"params": params}, method="scalars"))
    competing = min(batch_size, len(source))

    def measure(variables: Any, *, poll: embed.Poll) -> tuple[dict[str, Any], None]:
        scalars: Any = scalars_of(variables["params"])
        value = contrastive_loss(
            embedder.images(variables, source, image_size=image_size, poll=poll),
            embedder.texts(variables, firsts, tokenizer=tokenizer, poll=poll),
            **{scalar: float(np.asarray(x)) for scalar, x in scalars.items()},
            batch_size=batch_size,
            objective=objective,
            ids={} if duplicates == "negative" else content_ids(source, firsts, tokenizer),
        )
        return {"loss": value, "notes": [what_it_is, *cut]}, None

    cut = notes.of_cut(tokenizer.encode(firsts)[1])
    what_it_is = f"{name} among {counted(competing, 'pair')}"
    if pairs_in_training not in (0, competing):
        what_it_is += f", and {pairs_in_training:,} in training: train/loss is another number"
    guessing = losses.LOSSES[name].guessing
    chance = {"loss": guessing(competing)} if guessing else {}
    return embed.Evaluator(measure, n=len(source), chance=chance)


def contrastive_loss(
    image_embed: np.ndarray,
    text_embed: np.ndarray,
    *,
    logit_scale: float,
    logit_bias: float | None = None,
    batch_size: int,
    objective: Objective = PLAIN,
    ids: Mapping[str, np.ndarray] | None = None,
) -> float:
    """Mean of the objective over pairs, each among the pairs of its batch.

    Args:
      image_embed, text_embed: float32 [N, E], row i of one belongs to row i of the other.
      logit_scale: the multiplier of the cosines.
      logit_bias: what is added; None is nothing.
      batch_size: pairs that compete; it defines the number, so compare only equal sizes. A last
        smaller batch counts by its pairs.
      objective: as for `make_evaluator`.
      ids: "image_id" and "text_id", uint32 [N], of an objective that asks for them.
    """
    mesh = meshes.make_mesh(ONE_DEVICE, devices=jax.local_devices()[:1])
    scalars = {"logit_scale": np.float32(logit_scale)}
    if logit_bias is not None:
        scalars["logit_bias"] = np.float32(logit_bias)
    total = 0.0
    for start in range(0, len(image_embed), batch_size):
        rows = slice(start, start + batch_size)
        outputs = {"image_embed": image_embed[rows], "text_embed": text_embed[rows], **scalars}
        batch = {key: each[rows] for key, each in (ids or {}).items()}
        value = _value(outputs, batch, objective=objective, mesh=mesh)
        total += float(value) * len(image_embed[rows])
    return total / len(image_embed)


def content_ids(source: Any, texts: Sequence[str], tokenizer: Any) -> dict[str, np.ndarray]:
    """What tells equal images and equal captions, as `TrainExamples` gives it: uint32 [N] each."""
    images = [content_id(read(source, index)["image"]) for index in range(len(source))]
    tokens = [content_id(tokenizer.encode([text])[0][0].tobytes()) for text in texts]
    return {"image_id": np.array(images), "text_id": np.array(tokens)}


@partial(jax.jit, static_argnames=("objective", "mesh"))
def _value(
    outputs: dict[str, jax.Array], batch: dict[str, jax.Array], *, objective: Objective, mesh: Mesh
) -> jax.Array:
    return objective(outputs, batch, mesh=mesh, batch_axes=BATCH_AXES)[0]
