"""One block of the logit matrix: its values, and what the losses and metrics keep of it.

Called by `softmax.py`, `sigmoid.py` and `ring.py` inside `shard_map`. A block is rows x [b]
against rows y [c]; each side is a dict of arrays with one entry a row: `embed` [b, E], `index`
int32 [b] and, if duplicates matter, `image_id` and `text_id` uint32 [b].

Statistics of rows are a dict of float32 [b] named measure_kind: the measures best (largest logit),
mass (sum of exp(logit - best)), sum and count, of the row's pairs of one kind, positive or
negative. best and mass are kept apart, not joined to a log-sum-exp: rounding that, once a block,
costs a softmax at logits of 20 its last two digits.
"""

import jax
import jax.numpy as jnp

# Cosines closer than this are a tie: the last bits of a float32 sum of products depend on the
# order of the sum, which may differ between the columns of one matrix product.
TIE = 1e-6


def side(embed: jax.Array, vectors: dict, *, axes: tuple[str, ...]) -> dict:
    """This device's rows as one side of a block; `index` is the row's place in the global batch."""
    rows = embed.shape[0]
    first = jax.lax.axis_index(axes) * rows
    return {"embed": embed, "index": first + jnp.arange(rows, dtype=jnp.int32), **vectors}


def dot(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """einsum in the operands' own dtype, accumulated and returned in float32.

    float32 operands need HIGHEST, or a TPU multiplies them in one bfloat16 pass.
    """
    precision = jax.lax.Precision.HIGHEST if b.dtype == jnp.float32 else None
    return jnp.einsum(equation, a, b, precision=precision, preferred_element_type=jnp.float32)


def similarity(x: dict, y: dict) -> jax.Array:
    """Cosines of rows x with rows y, float32 [b, c]."""
    return dot("be,ce->bc", x["embed"], y["embed"])


def statistics(
    logits: jax.Array, mask: jax.Array, *, measures: tuple[str, ...], kind: str, axis: int
) -> dict:
    """`measures` of the pairs in `mask`, reduced over `axis`, as {"<measure>_<kind>": float32}.

    Where a row has no such pair, best is -inf and the others are 0.
    """
    figures = {}
    if "best" in measures:
        kept = jnp.where(mask, logits, -jnp.inf)
        figures["best"] = jnp.max(kept, axis=axis)
        if "mass" in measures:
            top = jnp.expand_dims(_finite(figures["best"]), axis)
            figures["mass"] = jnp.sum(jnp.exp(kept - top), axis=axis)
    if "sum" in measures:
        figures["sum"] = jnp.sum(jnp.where(mask, logits, 0.0), axis=axis)
    if "count" in measures:
        figures["count"] = jnp.sum(mask, axis=axis, dtype=jnp.float32)
    return {f"{measure}_{kind}": value for measure, value in figures.items()}


def _finite(best: jax.Array) -> jax.Array:
    """0 for -inf: -inf less -inf is not a number."""
    return jnp.where(best > -jnp.inf, best, 0.0)


def own_similarity(x: dict, y: dict) -> jax.Array:
    """Cosine of each row x with its partner y, float32 [b]."""
    return jnp.sum(x["embed"].astype(jnp.float32) * y["embed"].astype(jnp.float32), axis=1)


def own_positive(image: dict, text: dict, scalars: dict) -> dict:
    """All measures of positives for rows whose one positive is their own partner: no block needed.

    Without duplicates it is so, and it spares every block the work.
    """
    logit = scalars["scale"] * own_similarity(image, text) + scalars["bias"]
    return {
        "best_positive": logit,
        "mass_positive": jnp.ones_like(logit),
        "sum_positive": logit,
        "count_positive": jnp.ones_like(logit),
    }


def join(best_a, mass_a, best_b, mass_b) -> tuple[jax.Array, jax.Array]:
    """best and mass of two sets of pairs together."""
    # As in a streaming softmax: both masses are rescaled to the larger of the two maxima.
    best = jnp.maximum(best_a, best_b)
    top = _finite(best)
    return best, mass_a * jnp.exp(best_a - top) + mass_b * jnp.exp(best_b - top)


def merge(a: dict, b: dict) -> dict:
    """Statistics of the same rows against two sets of columns, as if against both at once."""
    merged = {}
    for key in a:
        measure, kind = key.split("_")
        if measure == "best":
            merged[key] = jnp.maximum(a[key], b[key])
        elif measure == "mass":
            best = f"best_{kind}"
            merged[key] = join(a[best], a[key], b[best], b[key])[1]
        else:
            merged[key] = a[key] + b[key]
    return merged


def nothing(keys, shape: tuple[int, ...]) -> dict:
    """Statistics against no columns at all: `merge` with them changes nothing."""
    return {key: jnp.full(shape, -jnp.inf if key.startswith("best") else 0.0) for key in keys}


def metrics(rows: dict, columns: dict, *, logit_scale: jax.Array, axes: tuple[str, ...]) -> dict:
    """Global metrics, float32 scalars, from each device's finished statistics of its own rows.

    rows has best, sum and count of both kinds, columns best. A row is right if its best positive is
    above its best negative by more than a tie.
    """

    def mean(kind):
        total = jax.lax.psum(jnp.sum(rows[f"sum_{kind}"]), axes)
        count = jax.lax.psum(jnp.sum(rows[f"count_{kind}"]), axes)
        return total / jnp.maximum(count, 1.0)

    def accuracy(statistics):
        margin = TIE * logit_scale
        right = statistics["best_positive"] > statistics["best_negative"] + margin
        return jax.lax.pmean(jnp.mean(right, dtype=jnp.float32), axes)

    return {
        "image_to_text_accuracy": accuracy(rows),
        "text_to_image_accuracy": accuracy(columns),
        "positive_logit_mean": mean("positive"),
        "negative_logit_mean": mean("negative"),
    }
