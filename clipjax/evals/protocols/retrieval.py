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

from clipjax.data import eval_batches
from clipjax.evals import embed, metrics, notes
from clipjax.evals.evaluated import EvaluatedSet
from clipjax.evals.metrics import Estimate
from clipjax.evals.protocols.registry import Protocol
from clipjax.evals.suites.results import Measurement
from clipjax.models.clip import CLIP
from clipjax.parallel import sharding
from clipjax.parallel.mesh import batch_shards
from clipjax.pictures.sheets import retrieved

RECALL_AT = (1, 5, 10)
BLOCK = 4096  # candidates at once
TIE = 1e-6  # cosines closer than this are equal: float32 sums depend on their order
PREFIX = "a photo of"  # before captions, section E.1: worth a point or two


def make_evaluator(
    model: CLIP, *, source: Any, tokenizer: Any, image_size: int, mesh: Mesh, batch_size: int
) -> embed.Evaluator:
    """Retrieval over all images and captions of `source`; metrics as `recalls` names them."""
    texts, text_image = eval_batches.eval_caption_list(source)
    cut = tokenizer.encode(texts)[1]
    of_captions = notes.of_captions(texts, text_image=text_image, cut=cut)
    embedder = embed.Embedder(model, mesh=mesh, batch_size=batch_size)
    load = embedder.loader(source, image_size=image_size)

    def measure(variables: Any, *, poll: embed.Poll) -> tuple[dict[str, Any], dict[str, Any]]:
        image_embed = embedder.images(variables, source, image_size=image_size, poll=poll)
        text_embed = embedder.texts(variables, texts, tokenizer=tokenizer, poll=poll)
        found = Retrieved.of(image_embed, text_embed, text_image=text_image, mesh=mesh)
        sheet = retrieved.sheet_arguments(  # last: it may fail here alone, where none waits for it
            texts,
            text_image=text_image,
            image_embed=image_embed,
            text_embed=text_embed,
            load=lambda index: load(index)["image"],
        )
        return {**shares(found.ranks), "notes": [*of_captions, *found.notes]}, sheet

    return embed.Evaluator(measure, n=len(source), chance=chance(text_image))


def chance(text_image: np.ndarray) -> dict[str, float]:
    """What `recalls` gives on average for scores drawn at random. `text_image`: int32 [M]."""
    texts_each = np.bincount(text_image)
    images, texts = len(texts_each), len(text_image)
    found = {}
    for k in RECALL_AT:
        # the share of draws whose k best texts hold none of the image's c own
        drawn = np.arange(texts_each.max())
        factors = np.clip((texts - drawn - k) / np.maximum(texts - drawn, 1), 0, 1)
        missed = np.concatenate([[1.0], np.cumprod(factors)])[texts_each]
        found[f"image_to_text_recall_at_{k}"] = float(np.mean(1 - missed))
    for k in RECALL_AT:
        found[f"text_to_image_recall_at_{k}"] = min(k / images, 1.0)
    return found


def recalls(
    image_embed: np.ndarray, text_embed: np.ndarray, *, text_image: np.ndarray, mesh: Mesh
) -> dict[str, float]:
    """Recall at 1, 5, 10 in both directions: {"image_to_text_recall_at_1": share of images one of
    whose captions is the best text, …, "text_to_image_recall_at_10": …}; arguments as `ranks`."""
    return shares(ranks(image_embed, text_embed, text_image=text_image, mesh=mesh))


def shares(found: dict[str, np.ndarray]) -> dict[str, float]:
    """What `recalls` gives, of the ranks that `ranks` gives."""
    return {
        f"{direction}_recall_at_{k}": float(np.sum(each < k) / len(each))
        for direction, each in found.items()
        for k in RECALL_AT
    }


def ranks(
    image_embed: np.ndarray, text_embed: np.ndarray, *, text_image: np.ndarray, mesh: Mesh
) -> dict[str, np.ndarray]:
    """The rank of the best right candidate of each query, 0 is best.

    Args:
      image_embed: float32 [N, E], L2-normalised.
      text_embed: float32 [M, E], L2-normalised; an image may have several captions.
      text_image: int32 [M], the image each caption belongs to.
      mesh: queries are split over its batch axes.

    Returns:
      {"image_to_text": int32 [N], "text_to_image": int32 [M]}. An image's own further captions do
      not count as wrong.
    """
    return Retrieved.of(image_embed, text_embed, text_image=text_image, mesh=mesh).ranks


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """What a retrieval gave: the ranks, as `ranks` gives them, and what to know of them."""

    ranks: dict[str, np.ndarray]
    notes: list[str]

    @classmethod
    def of(
        cls, image_embed: np.ndarray, text_embed: np.ndarray, *, text_image: np.ndarray, mesh: Mesh
    ) -> "Retrieved":
        """Arguments as `ranks`."""
        images = np.arange(len(image_embed), dtype=np.int32)
        texts = np.asarray(text_image, np.int32)
        found = {
            "image_to_text": _ranked(
                image_embed,
                query_owner=images,
                candidates=text_embed,
                candidate_owner=texts,
                mesh=mesh,
            ),
            "text_to_image": _ranked(
                text_embed,
                query_owner=texts,
                candidates=image_embed,
                candidate_owner=images,
                mesh=mesh,
            ),
        }
        told = notes.of_ranks(
            {way: int(np.sum(tied)) for way, (_, tied) in found.items()},
            queries={way: len(rank) for way, (rank, _) in found.items()},
            not_finite=sum(
                int(np.sum(~np.isfinite(embeds).all(axis=1)))
                for embeds in (image_embed, text_embed)
            ),
        )
        return cls({way: rank for way, (rank, _) in found.items()}, told)


def figures(found: dict[str, np.ndarray], *, text_image: np.ndarray) -> dict[str, Estimate]:
    """The recalls with intervals, and their means.

    Captions of one image are resampled together.

    Args:
      found: of `ranks`.
      text_image: int32 [M].

    Returns:
      The names of `recalls`; "mean_recall" of all six; "mean_recall_at_1" of both directions, the
      one number that DataComp reports of a retrieval set.
    """
    images = len(found["image_to_text"])
    captions = np.bincount(text_image, minlength=images)
    made: dict[str, Estimate] = {}
    by_image: list[tuple[np.ndarray, np.ndarray]] = []  # right, number
    for k in RECALL_AT:
        right = found["image_to_text"] < k
        made[f"image_to_text_recall_at_{k}"] = metrics.share(int(right.sum()), images)
        by_image.append((right.astype(np.int64), np.ones(images, np.int64)))
    for k in RECALL_AT:
        right = np.bincount(text_image[found["text_to_image"] < k], minlength=images)
        made[f"text_to_image_recall_at_{k}"] = metrics.ratio(right, captions)
        by_image.append((right, captions))
    half = len(RECALL_AT)
    made["mean_recall"] = metrics.mean_of_ratios(by_image)
    made["mean_recall_at_1"] = metrics.mean_of_ratios([by_image[0], by_image[half]])
    return made


def rank(
    queries: np.ndarray,
    *,
    query_owner: np.ndarray,
    candidates: np.ndarray,
    candidate_owner: np.ndarray,
    mesh: Mesh,
) -> np.ndarray:
    """For each query, how many wrong candidates score at least as high as its best right one.

    Args:
      queries: float32 [Q, E].
      query_owner: int32 [Q]; a candidate is right where its owner is the query's.
      candidates: float32 [N, E].
      candidate_owner: int32 [N].
      mesh: queries are split over its batch axes.

    Returns:
      int32 [Q]; 0 is best.
    """
    return _ranked(
        queries,
        query_owner=query_owner,
        candidates=candidates,
        candidate_owner=candidate_owner,
        mesh=mesh,
    )[0]


def _ranked(
    queries: np.ndarray,
    *,
    query_owner: np.ndarray,
    candidates: np.ndarray,
    candidate_owner: np.ndarray,
    mesh: Mesh,
) -> tuple[np.ndarray, np.ndarray]:
    """What `rank` gives, and bool [Q], whether a tie alone keeps a query from rank 0."""
    shards = batch_shards(mesh)
    padding = -len(queries) % shards
    split = sharding.batch_sharding(mesh)
    whole = sharding.replicated(mesh)

    def put(x: np.ndarray, rows: int, fill: int, where: jax.sharding.NamedSharding) -> jax.Array:
        padded = np.concatenate([x, np.full((rows, *x.shape[1:]), fill, x.dtype)])
        return jax.make_array_from_callback(padded.shape, where, lambda index: padded[index])

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
    rank = np.asarray(counts)[: len(queries)]
    return rank, (rank > 0) & (np.asarray(higher)[: len(queries)] == 0)


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


def measure(evaluated: EvaluatedSet) -> Measurement:
    """Recall both ways, of captions as they are and with the prefix."""
    data, model = evaluated.data, evaluated.model
    texts, text_image = eval_batches.eval_caption_list(data.source)
    result = Measurement(data.metric, {}, {"captions": len(texts)})
    medians: dict[str, float] = {}
    for name, prefix in (("", ""), ("prefixed_", f"{PREFIX} ")):
        captions = [prefix + text for text in texts]
        cut = model.tokenizer.encode(captions)[1]
        ranked = Retrieved.of(
            evaluated.image_embed, model.texts(captions), text_image=text_image, mesh=model.mesh
        )
        recalls = figures(ranked.ranks, text_image=text_image)
        result.figures |= {f"{name}{metric}": estimate for metric, estimate in recalls.items()}
        result.details[f"{name}captions_cut"] = int(np.sum(cut))
        if not name:
            medians = {
                f"median_rank_{way}": float(np.median(rank)) + 1
                for way, rank in ranked.ranks.items()
            }
            result.warnings += notes.of_captions(texts, text_image=text_image, cut=cut)
            result.warnings += ranked.notes
    result.details |= {"chance": 1 / data.n, **medians}
    return result


PROTOCOL = Protocol(settings, measure)
