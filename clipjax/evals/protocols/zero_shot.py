"""Zero-shot classification: the class whose prompts lie nearest to the image (paper section 3.1).

All prompts of a class are averaged in embedding space. A tie counts against the model, and so does
a value that is no number: a collapsed model scores 0. Classes with the same names tie, and are
both wrong; `prompts.read_alike` finds them.
"""

import dataclasses
import functools
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clipjax.common.exits import ConfigError, DataError
from clipjax.evals import embed, metrics, notes, prompts
from clipjax.models.clip import CLIP
from clipjax.parallel import sharding
from clipjax.parallel.mesh import batch_shards

TIE = 1e-6  # cosines closer than this are equal: float32 sums depend on their order
ROWS = 8192  # images judged at once


@dataclasses.dataclass(frozen=True)
class Result:
    """What a classifier did with N images.

    Attributes:
      classes: C names for people, the first of each class.
      labels: int32 [N], the true classes.
      chosen: int32 [N], the best class, or one that is as good and wrong.
      rank: int32 [N], how many wrong classes score no lower than the true one.
      not_finite: images with a score that is no number; they count as wrong.
      tied: images whose true class is as good as the best wrong one; they count as wrong.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    chosen: np.ndarray
    rank: np.ndarray
    not_finite: int = 0
    tied: int = 0

    @functools.cached_property
    def confusion(self) -> np.ndarray:
        """int64 [C, C], images by true (row) and chosen (column) class."""
        counts = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(counts, (self.labels, self.chosen), 1)
        return counts

    @property
    def in_top5(self) -> np.ndarray:
        """int64 [C], images of each class whose class is among the five best."""
        return np.bincount(self.labels[self.rank < 5], minlength=len(self.classes))


def make_evaluator(
    model: CLIP,
    *,
    source: Any,
    tokenizer: Any,
    image_size: int,
    mesh: Mesh,
    batch_size: int,
    where: str = "config.evals.<name>",
    classes: str = "",
    templates: Sequence[str] = (),
    permute_names: bool = False,
) -> embed.Evaluator:
    """Classification of all images of `source` by the prompts of its classes.

    Args:
      where: the evaluator's config key, for errors.
      classes, templates, permute_names: see `prompts.table` and `prompts.make`.

    Returns:
      An evaluator of metrics top1_accuracy, top5_accuracy (with more than five classes),
      mean_per_class_accuracy, single_prompt_top1_accuracy (the first template and name alone), and
      prompts_hash, a text; its `details` are the Result of all prompts together, and its notes
      are of these.

    Raises:
      ConfigError: the table of names does not fit the data, or a prompt the model's context.
      DataError: records have no labels.
    """
    labels, chosen = labels_and_prompts(
        source,
        tokenizer=tokenizer,
        where=where,
        classes=classes,
        templates=templates,
        permute_names=permute_names,
    )
    texts, owners, singles = chosen.texts()
    alike = prompts.read_alike(chosen, tokenizer=tokenizer)
    embedder = embed.Embedder(model, mesh=mesh, batch_size=batch_size)
    shown = tuple(names[0] for names in chosen.names)
    chance = chance_of(len(shown))
    chance["single_prompt_top1_accuracy"] = chance["top1_accuracy"]

    def measure(variables: Any, *, poll: embed.Poll) -> tuple[dict[str, Any], Result]:
        image_embed = embedder.images(variables, source, image_size=image_size, poll=poll)
        text_embed = embedder.texts(variables, texts, tokenizer=tokenizer, poll=poll)
        ensemble, single = (
            judge(image_embed, weights, labels=labels, classes=shown, mesh=mesh)
            for weights in (class_weights(text_embed, owners=owners), text_embed[singles])
        )
        found = accuracies(ensemble)
        found["single_prompt_top1_accuracy"] = accuracies(single)["top1_accuracy"]
        values = {name: estimate.value for name, estimate in found.items()}
        told = notes.of_result(ensemble, alike=alike)
        return {**values, "prompts_hash": chosen.hash, "notes": told}, ensemble

    return embed.Evaluator(measure, n=len(labels), chance=chance)


def labels_and_prompts(
    source: Any, *, tokenizer: Any, where: str, classes: str, **naming: Any
) -> tuple[np.ndarray, prompts.Prompts]:
    """int32 [N], the class of each record, and the prompts of the C classes, which fit the model.

    Arguments and errors as `make_evaluator`; `naming` is templates and permute_names.
    """
    keys, labels = class_labels(source)
    table = prompts.table(classes, source=source, keys=keys, where=where)
    chosen = prompts.make(keys, table=table, where=where, **naming)
    check_fit(chosen.texts()[0], tokenizer=tokenizer, where=where)
    return labels, chosen


def chance_of(classes: int) -> dict[str, float]:
    """What guessing among so many classes gives, by the metrics of `accuracies`."""
    chance = dict.fromkeys(("top1_accuracy", "mean_per_class_accuracy"), 1 / classes)
    return {**chance, "top5_accuracy": 5 / classes} if classes > 5 else {**chance}


def class_labels(source: Any) -> tuple[tuple[str, ...], np.ndarray]:
    """(all C label keys, int32 [N] the class of each record).

    A source may tell `labels`, all keys there are, and `label(index)`; without them every record
    is read, and the keys are those that occur, sorted.

    Raises:
      DataError: a record has no label, or one that is not among `labels`.
    """
    label = getattr(source, "label", None) or (lambda index: source[index].get("label"))
    found = [label(index) for index in range(len(source))]
    if None in found:
        raise DataError(
            f"source {source.name}: record {found.index(None)} has no label; zero_shot needs one"
        )
    keys = tuple(getattr(source, "labels", None) or sorted(set(found)))
    place = {key: i for i, key in enumerate(keys)}
    unknown = sorted(set(found) - set(keys))
    if unknown:
        raise DataError(f"source {source.name}: label {unknown[0]!r} is not one of its labels")
    return keys, np.array([place[key] for key in found], np.int32)


def check_fit(texts: Sequence[str], *, tokenizer: Any, where: str) -> None:
    """Raise ConfigError if a prompt is longer than the context: its end would go unread."""
    _, truncated = tokenizer.encode(texts)
    if truncated.any():
        first = texts[int(np.flatnonzero(truncated)[0])]
        raise ConfigError(
            f'{where}: "{first}" does not fit in the model\'s {tokenizer.context_length} tokens'
            f" (config.model.text.context_length={tokenizer.context_length}); choose"
            " shorter names or templates"
        )


def class_weights(text_embed: np.ndarray, *, owners: np.ndarray) -> np.ndarray:
    """The mean of each class's prompts, normalised again.

    Args:
      text_embed: float32 [P, E], L2-normalised.
      owners: int32 [P], the class of each; every class 0 … C - 1 occurs.

    Returns:
      float32 [C, E], L2-normalised.
    """
    order, number = np.argsort(owners, kind="stable"), np.bincount(owners)
    starts = np.cumsum(number) - number
    total = np.add.reduceat(text_embed[order].astype(np.float64), starts, axis=0)
    mean = total / number[:, None]
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    return (mean / np.maximum(length, 1e-12)).astype(np.float32)


def judge(
    image_embed: np.ndarray,
    weights: np.ndarray,
    *,
    labels: np.ndarray,
    classes: tuple[str, ...],
    mesh: Mesh,
) -> Result:
    """Classify images and count.

    Args:
      image_embed: float32 [N, E], L2-normalised.
      weights: float32 [C, E], L2-normalised.
      labels: int32 [N], the true classes.
      classes: C names, passed on.
      mesh: images are split over its batch axes.
    """
    shards = batch_shards(mesh)
    rows = min(ROWS - ROWS % shards or shards, len(labels) + -len(labels) % shards)
    split = sharding.batch_sharding(mesh)
    placed = _put(np.asarray(weights, np.float32), sharding.replicated(mesh))
    ranks, choices, tied = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], 0
    for start in range(0, len(labels), rows or 1):
        true = labels[start : start + rows]
        spare = rows - len(true)
        images = np.pad(image_embed[start : start + rows], ((0, spare), (0, 0)))
        rank, chosen, ties = _judge(
            _put(images, split), placed, _put(np.pad(true, (0, spare)), split), mesh=mesh
        )
        ranks.append(np.asarray(rank)[: len(true)])
        choices.append(np.asarray(chosen)[: len(true)])
        tied += int(np.sum(np.asarray(ties)[: len(true)]))
    finite = np.isfinite(image_embed).all(axis=1) & np.isfinite(weights).all()
    return Result(
        classes,
        np.asarray(labels, np.int32),
        np.concatenate(choices),
        np.concatenate(ranks),
        int(np.sum(~finite)),
        tied,
    )


def accuracies(result: Result) -> dict[str, metrics.Estimate]:
    """top1_accuracy, top5_accuracy (only with more than five classes), mean_per_class_accuracy
    (over the classes that occur)."""
    number = np.bincount(result.labels, minlength=len(result.classes))
    right = np.bincount(result.labels[result.rank == 0], minlength=len(result.classes))
    found = {"top1_accuracy": metrics.share(right.sum(), number.sum())}
    if len(right) > 5:
        found["top5_accuracy"] = metrics.share(result.in_top5.sum(), number.sum())
    return {**found, "mean_per_class_accuracy": metrics.mean_per_class(right, number)}


def cosines(image_embed: np.ndarray, weights: np.ndarray, *, mesh: Mesh) -> np.ndarray:
    """float32 [N, C], for metrics that rank images; the arguments as for `judge`."""
    shards = batch_shards(mesh)
    split, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    placed, parts = _put(np.asarray(weights, np.float32), whole), []
    rows = ROWS - ROWS % shards or shards
    for start in range(0, len(image_embed), rows):
        images = image_embed[start : start + rows]
        padded = np.pad(images, ((0, -len(images) % shards), (0, 0)))
        parts.append(np.asarray(_cosines(_put(padded, split), placed, mesh=mesh))[: len(images)])
    return np.concatenate(parts) if parts else np.zeros((0, len(weights)), np.float32)


def _put(x: np.ndarray, placement: jax.sharding.NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(x.shape, placement, lambda index: x[index])


@partial(jax.jit, static_argnames="mesh")
def _judge(
    image_embed: jax.Array,  # [B, E]
    weights: jax.Array,  # [C, E]
    true: jax.Array,  # [B]
    *,
    mesh: Mesh,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """int32 [B] twice: how many wrong classes score no lower, and the chosen class; bool [B]:
    whether that is a wrong one for a tie alone."""
    cosine = jnp.einsum("be,ce->bc", image_embed, weights, precision=jax.lax.Precision.HIGHEST)
    wrong = jnp.arange(len(weights))[None, :] != true[:, None]  # [B, C]
    right = jnp.take_along_axis(cosine, true[:, None], axis=1)  # [B, 1]
    above = wrong & ~(cosine < right - TIE)  # so that a NaN counts against the model
    rank = jnp.sum(above, axis=1, dtype=jnp.int32)
    best_wrong = jnp.argmax(jnp.where(wrong, cosine, -jnp.inf), axis=1)
    # With NaN for all scores argmax may fall on the true class: any other one will do.
    best_wrong = jnp.where(best_wrong == true, (true + 1) % len(weights), best_wrong)
    chosen = jnp.where(rank == 0, true, best_wrong).astype(jnp.int32)
    higher = jnp.sum(wrong & (cosine > right + TIE), axis=1)
    tied = jnp.any(wrong & (jnp.abs(cosine - right) <= TIE), axis=1) & (higher == 0)
    return jax.lax.with_sharding_constraint((rank, chosen, tied), sharding.replicated(mesh))


@partial(jax.jit, static_argnames="mesh")
def _cosines(image_embed: jax.Array, weights: jax.Array, *, mesh: Mesh) -> jax.Array:
    found = jnp.einsum("be,ce->bc", image_embed, weights, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.with_sharding_constraint(found, sharding.replicated(mesh))
