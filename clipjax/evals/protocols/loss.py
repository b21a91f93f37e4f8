"""The run's own contrastive loss on held-out pairs, in batches of a fixed size.

The same function as in training: softmax or sigmoid, with the model's scale and bias, embeddings
cast as there, and equal pairs of a batch taken as `config.loss.duplicates` says.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clipjax import losses
from clipjax.common.counts import counted
from clipjax.data.same_image import content_id
from clipjax.evals import notes
from clipjax.evals.evaluated import EvaluatedSet
from clipjax.evals.metrics import Estimate
from clipjax.evals.protocols.registry import Protocol
from clipjax.evals.suites.results import Measurement
from clipjax.parallel import mesh as meshes
from clipjax.parallel.mesh import BATCH_AXES
from clipjax.training import objectives
from clipjax.training.objectives import Objective

PLAIN = objectives.contrastive("softmax_gather", embed_dtype="float32")
ONE_DEVICE = {"data": 1, "fsdp": 1, "tensor": 1}


@dataclasses.dataclass(frozen=True)
class TrainingLoss:
    """The loss of a run.

    Attributes:
      objective: see `training.objectives`.
      name: of the loss.
      duplicates: what it makes of equal images and captions, `config.loss.duplicates`.
      pairs: that compete in training; 0 is not known.
    """

    objective: Objective
    name: str
    duplicates: str
    pairs: int


def competing(evaluated: EvaluatedSet) -> int:
    """Pairs among which each is measured."""
    return min(evaluated.model.embedder.batch_size, evaluated.data.n)


def chance(evaluated: EvaluatedSet) -> dict[str, float]:
    """The loss of guessing, where it is known."""
    guessing = losses.LOSSES[evaluated.model.training_loss.name].guessing
    return {"loss": guessing(competing(evaluated))} if guessing else {}


def measure(evaluated: EvaluatedSet) -> Measurement:
    """The run's loss over all images with their first captions."""
    model, source, pairs = evaluated.model, evaluated.data.source, competing(evaluated)
    loss: TrainingLoss = model.training_loss
    texts, text_image = evaluated.data.captions
    first = np.unique(text_image, return_index=True)[1]
    firsts = [texts[i] for i in first]
    alike_count = loss.duplicates != "negative"
    value = contrastive_loss(
        evaluated.image_embed,
        evaluated.texts(firsts),
        **model.embedder.scalars(model.variables),
        batch_size=model.embedder.batch_size,
        objective=loss.objective,
        ids=content_ids(source, firsts, model.tokenizer) if alike_count else {},
    )
    what_it_is = f"{loss.name} among {counted(pairs, 'pair')}"
    if loss.pairs not in (0, pairs):
        what_it_is += f", and {loss.pairs:,} in training: train/loss is another number"
    return Measurement(
        "loss",
        {"loss": Estimate(value, math.nan, math.nan, len(source))},
        warnings=[what_it_is, *notes.of_cut(evaluated.captions_cut[first])],
    )


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
      objective: see `training.objectives`.
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
    images = [content_id(source.read(index)["image"]) for index in range(len(source))]
    tokens = [content_id(tokenizer.encode([text])[0][0].tobytes()) for text in texts]
    return {"image_id": np.array(images), "text_id": np.array(tokens)}


@partial(jax.jit, static_argnames=("objective", "mesh"))
def _value(
    outputs: dict[str, jax.Array], batch: dict[str, jax.Array], *, objective: Objective, mesh: Mesh
) -> jax.Array:
    return objective(outputs, batch, mesh=mesh, batch_axes=BATCH_AXES)[0]


PROTOCOL = Protocol(measure, chance=chance)
