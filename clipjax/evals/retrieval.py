"""Image-text retrieval by rank counting: recall at 1, 5 and 10, both ways, in float32.

For each query only the number of wrong candidates that score at least as high as its best right one
is counted, block by block, so that no images × texts matrix exists. A tie counts against the model:
a collapsed one, which scores all alike, gets 0 and not 1.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clipjax.data import eval_batches
from clipjax.evals import embed
from clipjax.models.clip import CLIP
from clipjax.parallel import sharding
from clipjax.parallel.mesh import batch_shards
from clipjax.pictures import retrieved

RECALL_AT = (1, 5, 10)
BLOCK = 4096  # candidates at once
TIE = 1e-6  # cosines closer than this are equal: float32 sums depend on their order


def make_evaluator(
    model: CLIP, *, source: Any, tokenizer: Any, image_size: int, mesh: Mesh, batch_size: int
) -> embed.Evaluator:
    """Retrieval over all images and captions of `source`; metrics as `recalls` names them."""
    texts, text_image = eval_batches.eval_caption_list(source)
    embedder = embed.Embedder(model, mesh=mesh, batch_size=batch_size)

    load = partial(eval_batches.load_eval_image, source=source, size=image_size)

    def measure(params: Any, *, poll: embed.Poll) -> tuple[dict[str, float], dict[str, Any]]:
        image_embed = embedder.images(params, source, image_size=image_size, poll=poll)
        text_embed = embedder.texts(params, texts, tokenizer=tokenizer, poll=poll)
        sheet = retrieved.sheet_arguments(
            texts,
            text_image=text_image,
            image_embed=image_embed,
            text_embed=text_embed,
            load=lambda index: load(index)["image"],
        )
        return recalls(image_embed, text_embed, text_image=text_image, mesh=mesh), sheet

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
    """Recall at 1, 5, 10 in both directions.

    Args:
      image_embed: float32 [N, E], L2-normalised.
      text_embed: float32 [M, E], L2-normalised; an image may have several captions.
      text_image: int32 [M], the image each caption belongs to.
      mesh: queries are split over its batch axes.

    Returns:
      {"image_to_text_recall_at_1": share of images one of whose captions is the best text, …,
      "text_to_image_recall_at_10": …}. An image's own further captions do not count as wrong.
    """
    images = np.arange(len(image_embed), dtype=np.int32)
    text_image = np.asarray(text_image, np.int32)
    metrics = {}
    for direction, (queries, query_owner, candidates, candidate_owner) in {
        "image_to_text": (image_embed, images, text_embed, text_image),
        "text_to_image": (text_embed, text_image, image_embed, images),
    }.items():
        ranks = rank(
            queries,
            query_owner=query_owner,
            candidates=candidates,
            candidate_owner=candidate_owner,
            mesh=mesh,
        )
        for k in RECALL_AT:
            metrics[f"{direction}_recall_at_{k}"] = float(np.sum(ranks < k) / len(ranks))
    return metrics


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
    shards = batch_shards(mesh)
    padding = -len(queries) % shards
    split = sharding.batch_sharding(mesh)
    whole = sharding.replicated(mesh)

    def put(x: np.ndarray, rows: int, fill: int, where: jax.sharding.NamedSharding) -> jax.Array:
        padded = np.concatenate([x, np.full((rows, *x.shape[1:]), fill, x.dtype)])
        return jax.make_array_from_callback(padded.shape, where, lambda index: padded[index])

    block = min(BLOCK, len(candidates))
    spare = -len(candidates) % block
    counts = _count(
        put(np.asarray(queries, np.float32), padding, 0, split),
        put(np.asarray(query_owner, np.int32), padding, 0, split),
        put(np.asarray(candidates, np.float32), spare, 0, whole),
        put(np.asarray(candidate_owner, np.int32), spare, -1, whole),
        mesh=mesh,
        block=block,
    )
    return np.asarray(counts)[: len(queries)]


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

    def count_wrong(total, part):
        cosine, right, real = scores(part)
        above = real & ~right & ~(cosine < best[:, None] - TIE)  # a NaN counts against it
        return total + jnp.sum(above, axis=1, dtype=jnp.int32), None

    total, _ = jax.lax.scan(count_wrong, jnp.zeros(queries.shape[:1], jnp.int32), blocks)
    return jax.lax.with_sharding_constraint(total, sharding.replicated(mesh))
