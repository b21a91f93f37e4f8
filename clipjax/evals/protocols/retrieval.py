"""Image-text retrieval by rank counting: recall at 1, 5 and 10, both ways, in float32.

For each query only the number of wrong candidates that score at least as high as its best right one
is counted, block by block, so that no images × texts matrix exists. A tie counts against the model:
a collapsed one, which scores all alike, gets 0 and not 1.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clipjax.evals import metrics, notes
from clipjax.evals.evaluated import EvaluatedSet
from clipjax.evals.metrics import Estimate
from clipjax.evals.protocols.registry import RECALLS, Protocol
from clipjax.evals.suites.results import Measurement
from clipjax.parallel import sharding
from clipjax.parallel.mesh import batch_shards
from clipjax.pictures.sheets import retrieved

RECALL_AT = (1, 5, 10)
BLOCK = 4096  # candidates at once
TIE = 1e-6  # cosines closer than this are equal: float32 sums depend on their order
PREFIX = "a photo of"  # before captions, section E.1: worth a point or two


def chance_of(text_image: np.ndarray) -> dict[str, float]:
    """The recalls on average for scores drawn at random. `text_image`: int32 [M]."""
    texts_each = np.bincount(text_image)
    images, texts = len(texts_each), len(text_image)
    levels = {}
    for k in RECALL_AT:
        # the share of draws whose k best texts hold none of the image's c own
        drawn = np.arange(texts_each.max())
        factors = np.clip((texts - drawn - k) / np.maximum(texts - drawn, 1), 0, 1)
        missed = np.concatenate([[1.0], np.cumprod(factors)])[texts_each]
        levels[f"image_to_text_recall_at_{k}"] = float(np.mean(1 - missed))
    for k in RECALL_AT:
        levels[f"text_to_image_recall_at_{k}"] = min(k / images, 1.0)
    return levels


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """What a retrieval gave.

    Attributes:
      ranks: {"image_to_text": int32 [N], "text_to_image": int32 [M]}, of each query the rank of
        its best right candidate, 0 is best. An image's own further captions do not count as wrong.
      notes: what to know of them.
    """

    ranks: dict[str, np.ndarray]
    notes: list[str]

    @classmethod
    def of(
        cls, image_embed: np.ndarray, text_embed: np.ndarray, *, text_image: np.ndarray, mesh: Mesh
    ) -> "Retrieved":
        """Rank images for texts and texts for images.

        Args:
          image_embed: float32 [N, E], L2-normalised.
          text_embed: float32 [M, E], L2-normalised; an image may have several captions.
          text_image: int32 [M], the image each caption belongs to.
          mesh: queries are split over its batch axes.
        """
        images = np.arange(len(image_embed), dtype=np.int32)
        texts = np.asarray(text_image, np.int32)
        ranked = {
            "image_to_text": rank(
                image_embed,
                query_owner=images,
                candidates=text_embed,
                candidate_owner=texts,
                mesh=mesh,
            ),
            "text_to_image": rank(
                text_embed,
                query_owner=texts,
                candidates=image_embed,
                candidate_owner=images,
                mesh=mesh,
            ),
        }
        sentences = notes.of_ranks(
            {way: int(np.sum(tied)) for way, (_, tied) in ranked.items()},
            queries={way: len(ranks) for way, (ranks, _) in ranked.items()},
            not_finite=sum(
                int(np.sum(~np.isfinite(embeds).all(axis=1)))
                for embeds in (image_embed, text_embed)
            ),
        )
        return cls({way: ranks for way, (ranks, _) in ranked.items()}, sentences)


def figures(ranks: dict[str, np.ndarray], *, text_image: np.ndarray) -> dict[str, Estimate]:
    """The recalls with intervals, and their means.

    Captions of one image are resampled together.

    Args:
      ranks: see `Retrieved`.
      text_image: int32 [M].

    Returns:
      Recall at 1, 5, 10 in both directions: {"image_to_text_recall_at_1": share of images one of
      whose captions is the best text, …, "text_to_image_recall_at_10": …}; "mean_recall" of all
      six; "mean_recall_at_1" of both directions, the one number that DataComp reports of a
      retrieval set.
    """
    images = len(ranks["image_to_text"])
    captions = np.bincount(text_image, minlength=images)
    estimates: dict[str, Estimate] = {}
    by_image: list[tuple[np.ndarray, np.ndarray]] = []  # right, number
    for k in RECALL_AT:
        right = ranks["image_to_text"] < k
        estimates[f"image_to_text_recall_at_{k}"] = metrics.share(int(right.sum()), images)
        by_image.append((right.astype(np.int64), np.ones(images, np.int64)))
    for k in RECALL_AT:
        right = np.bincount(text_image[ranks["text_to_image"] < k], minlength=images)
        estimates[f"text_to_image_recall_at_{k}"] = metrics.ratio(right, captions)
        by_image.append((right, captions))
    half = len(RECALL_AT)
    estimates["mean_recall"] = metrics.mean_of_ratios(by_image)
    estimates["mean_recall_at_1"] = metrics.mean_of_ratios([by_image[0], by_image[half]])
    return estimates


def rank(
    queries: np.ndarray,
    *,
    query_owner: np.ndarray,
    candidates: np.ndarray,
    candidate_owner: np.ndarray,
    mesh: Mesh,
) -> tuple[np.ndarray, np.ndarray]:
    """How many wrong candidates score at least as high as each query's best right one.

    Args:
      queries: float32 [Q, E].
      query_owner: int32 [Q]; a candidate is right where its owner is the query's.
      candidates: float32 [N, E].
      candidate_owner: int32 [N].
      mesh: queries are split over its batch axes.

    Returns:
      int32 [Q], 0 is best; and bool [Q], whether a tie alone keeps a query from 0.
    """
    shards = batch_shards(mesh)
    padding = -len(queries) % shards
    split = sharding.batch_sharding(mesh)
    whole = sharding.replicated(mesh)

    def put(x: np.ndarray, rows: int, fill: int, where: jax.sharding.NamedSharding) -> jax.Array:
        padded = np.concatenate([x, np.full((rows, *x.shape[1:]), fill, x.dtype)])
        return sharding.put(padded, where)

    block = min(BLOCK, len(candidates))
    spare = -len(candidates) % block
    counts, higher = _count(
        put(np.asarray(queries, np.float32), padding, 0, split),
        put(np.asarray(query_owner, np.int32), padding, 0, split),
        put(np.asarray(candidates, np.float32), spare, 0, whole),
        put(np.asarray(candidate_owner, np.int32), spare, -1, whole),
        mesh=mesh,
        block=block,
    )
    ranks = np.asarray(counts)[: len(queries)]
    return ranks, (ranks > 0) & (np.asarray(higher)[: len(queries)] == 0)


@partial(jax.jit, static_argnames=("mesh", "block"))
def _count(
    queries: jax.Array,  # [Q, E]
    query_owner: jax.Array,  # [Q]
    candidates: jax.Array,  # [N, E]
    candidate_owner: jax.Array,  # [N], -1 is padding
    *,
    mesh: Mesh,
    block: int,
) -> jax.Array:
    """int32 [2, Q]: wrong candidates that score at least as high, and those that score higher."""
    blocks = (
        candidates.reshape(-1, block, candidates.shape[-1]),
        candidate_owner.reshape(-1, block),
    )

    def scores(part):
        embed, owner = part
        cosine = jnp.einsum("qe,ne->qn", queries, embed, precision=jax.lax.Precision.HIGHEST)
        return cosine, owner[None, :] == query_owner[:, None], owner[None, :] >= 0  # [Q, block]

    def best_right(best, part):
        cosine, right, _ = scores(part)
        return jnp.maximum(best, jnp.max(cosine, axis=1, where=right, initial=-jnp.inf)), None

    best, _ = jax.lax.scan(best_right, jnp.full(queries.shape[:1], -jnp.inf), blocks)

    def count_wrong(totals, part):
        cosine, right, real = scores(part)
        bounds = jnp.stack([best - TIE, best + TIE])[..., None]  # [2, Q, 1]
        above = real & ~right & ~(cosine < bounds)  # a NaN counts against it
        return totals + jnp.sum(above, axis=2, dtype=jnp.int32), None

    totals, _ = jax.lax.scan(count_wrong, jnp.zeros((2, len(queries)), jnp.int32), blocks)
    return jax.lax.with_sharding_constraint(totals, sharding.replicated(mesh))


def settings(evaluated: EvaluatedSet) -> dict[str, Any]:
    """The prefix, and the metric."""
    return {"prefix": PREFIX, "metric": evaluated.data.metric}


def chance(evaluated: EvaluatedSet) -> dict[str, float]:
    """What guessing gives, by the metrics of `in_loop`."""
    return chance_of(evaluated.data.captions[1])


def in_loop(evaluated: EvaluatedSet) -> Measurement:
    """Recall both ways, of captions as they are; its picture is a sheet of the best images."""
    model, source = evaluated.model, evaluated.data.source
    texts, text_image = evaluated.data.captions
    image_embed, text_embed = evaluated.image_embed, evaluated.texts(texts)
    ranked = Retrieved.of(image_embed, text_embed, text_image=text_image, mesh=model.mesh)
    recalls = figures(ranked.ranks, text_image=text_image)
    load = model.embedder.loader(source, image_size=model.image_size)
    sheet = retrieved.sheet_arguments(  # last: it may fail here alone, where none waits for it
        texts,
        text_image=text_image,
        image_embed=image_embed,
        text_embed=text_embed,
        load=lambda index: load(index)["image"],
    )
    return Measurement(
        "mean_recall_at_1",
        {name: recalls[name] for name in RECALLS},
        warnings=_warnings(evaluated, ranked),
        picture=sheet,
    )


def measure(evaluated: EvaluatedSet) -> Measurement:
    """Recall both ways, of captions as they are and with the prefix."""
    data, model = evaluated.data, evaluated.model
    texts, text_image = data.captions
    result = Measurement(data.metric, {}, {"captions": len(texts)})
    medians: dict[str, float] = {}
    for name, prefix in (("", ""), ("prefixed_", f"{PREFIX} ")):
        captions = [prefix + text for text in texts]
        cut = model.tokenizer.encode(captions)[1]
        ranked = Retrieved.of(
            evaluated.image_embed,
            evaluated.texts(captions),
            text_image=text_image,
            mesh=model.mesh,
        )
        recalls = figures(ranked.ranks, text_image=text_image)
        result.figures |= {f"{name}{metric}": estimate for metric, estimate in recalls.items()}
        result.details[f"{name}captions_cut"] = int(np.sum(cut))
        if not name:
            result.warnings = _warnings(evaluated, ranked)
            medians = {
                f"median_rank_{way}": float(np.median(ranks)) + 1
                for way, ranks in ranked.ranks.items()
            }
    result.details |= {"chance": 1 / data.n, **medians}
    return result


def _warnings(evaluated: EvaluatedSet, ranked: Retrieved) -> list[str]:
    texts, text_image = evaluated.data.captions
    of_captions = notes.of_captions(texts, text_image=text_image, cut=evaluated.captions_cut)
    return of_captions + ranked.notes


PROTOCOL = Protocol(measure, settings, in_loop=in_loop, chance=chance)
