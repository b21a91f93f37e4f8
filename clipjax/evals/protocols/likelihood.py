"""Zero-shot classification by a model that predicts captions: the class whose prompts the image
makes most likely (paper, Figure 2).

A class scores the mean over its prompts of the mean log-likelihood of their predicted tokens, so
that long names are not the less likely for their length. Ties and values that are no number count
against the model, as in `classification`.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clipjax.data import eval_batches
from clipjax.evals import classification, embed, notes
from clipjax.evals.evaluated import EvaluatedSet
from clipjax.evals.protocols.registry import Protocol
from clipjax.evals.suites.results import Measurement
from clipjax.models.baselines.prediction import CaptionPredictor
from clipjax.parallel import sharding

PROMPTS = 16  # looked at together: a captioning model sees each with each image of a batch


class Scorer:
    """How likely every text is for every image of a set; arguments as for `embed.Embedder`."""

    def __init__(self, model: CaptionPredictor, *, mesh: Mesh, batch_size: int) -> None:
        self.mesh = mesh
        self.batch_size = batch_size
        self.resize = model.config.image_resize
        self._scores = jax.jit(
            lambda variables, image, texts: model.apply(variables, image, texts, method="scores"),
            out_shardings=sharding.replicated(mesh),  # so that every process can read every row
        )

    def __call__(
        self, variables: Any, source: Any, ids: np.ndarray, *, image_size: int, poll: embed.Poll
    ) -> np.ndarray:
        """float32 [N, P] for N images and token ids int32 [P, T], on every process.

        Raises:
          embed.Preempted: `poll` asked for it.
        """
        padded = np.concatenate([ids, np.repeat(ids[-1:], -len(ids) % PROMPTS, axis=0)])
        blocks = padded.reshape(-1, PROMPTS, ids.shape[1])
        rows = [np.zeros((0, len(ids)), np.float32)]
        for batch in eval_batches.eval_image_batches(
            source,
            size=image_size,
            resize=self.resize,
            batch_size=self.batch_size,
            rows=sharding.local_rows(self.batch_size, mesh=self.mesh),
            num_threads=embed.THREADS,
        ):
            if poll():
                raise embed.Preempted
            local = {"image": batch["image"]}
            placed = sharding.to_device(local, mesh=self.mesh, batch_size=self.batch_size)
            each = [np.asarray(self._scores(variables, placed["image"], block)) for block in blocks]
            rows.append(np.concatenate(each, axis=1)[:, : len(ids)])
        return np.concatenate(rows)[: len(source)]  # behind them is the last batch's padding


def of_classes(scores: np.ndarray, *, owners: np.ndarray) -> np.ndarray:
    """float64 [N, C], the mean score of each class's prompts: of float32 [N, P], int32 [P]."""
    member = (owners[:, None] == np.arange(owners.max() + 1)).astype(np.float64)  # [P, C]
    return scores.astype(np.float64) @ member / member.sum(axis=0)


def measure(evaluated: EvaluatedSet) -> Measurement:
    """Classification of all images by the prompts of their classes."""
    data, model = evaluated.data, evaluated.model
    texts, owners, _ = evaluated.prompts.texts()
    ids, _ = model.tokenizer.encode(texts)
    each = model.embedder(
        model.variables, data.source, ids, image_size=model.image_size, poll=evaluated.poll
    )
    result = classification.judge_scores(
        of_classes(each, owners=owners), labels=data.labels, classes=evaluated.names
    )
    return Measurement(
        "top1_accuracy",
        classification.accuracies(result),
        warnings=notes.of_result(result, alike=evaluated.alike),
        picture=result,
    )


def chance(evaluated: EvaluatedSet) -> dict[str, float]:
    """What guessing gives, by metric."""
    return classification.chance(len(evaluated.data.keys))


PROTOCOL = Protocol(measure, chance=chance, embedder=Scorer)
