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
from clipjax.evals import classification, embed, notes, prompts
from clipjax.evals.protocols import zero_shot
from clipjax.models.baselines.prediction import CaptionPredictor
from clipjax.parallel import sharding

PROMPTS = 16  # looked at together: a captioning model sees each with each image of a batch


def make_evaluator(
    model: CaptionPredictor,
    *,
    source: Any,
    tokenizer: Any,
    image_size: int,
    mesh: Mesh,
    batch_size: int,
    where: str,
    **naming: Any,
) -> embed.Evaluator:
    """Classification of all images of `source` by the prompts of its classes.

    Arguments and errors as `zero_shot.make_evaluator`, `naming` its classes, templates and
    permute_names; so are the metrics, but for single_prompt_top1_accuracy.
    """
    labels, chosen = zero_shot.labels_and_prompts(
        source, tokenizer=tokenizer, where=where, **naming
    )
    texts, owners, _ = chosen.texts()
    score = Scorer(model, mesh=mesh, batch_size=batch_size)
    shown = tuple(names[0] for names in chosen.names)
    alike = prompts.read_alike(chosen, tokenizer=tokenizer)

    def measure(variables: Any, *, poll: embed.Poll) -> tuple[dict[str, Any], Any]:
        ids, _ = tokenizer.encode(texts)
        each = score(variables, source, ids, image_size=image_size, poll=poll)
        scores = of_classes(each, owners=owners)
        result = classification.judge_scores(scores, labels=labels, classes=shown)
        values = {name: x.value for name, x in classification.accuracies(result).items()}
        told = notes.of_result(result, alike=alike)
        return {**values, "prompts_hash": chosen.hash, "notes": told}, result

    return embed.Evaluator(measure, n=len(labels), chance=classification.chance(len(shown)))


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
