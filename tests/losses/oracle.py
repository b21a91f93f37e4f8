"""The losses by their definitions: float64, one device, the whole matrix, JAX's own derivative.

Used by the tests of this folder. Nothing here is shared with clipjax.
"""

import jax
import jax.numpy as jnp
import numpy as np


def masks(count, *, image_id=None, text_id=None, mode=None):
    """Bool [B, B]: which pairs are positives, which negatives."""
    own = np.eye(count, dtype=bool)
    if mode is None:
        return own, ~own
    same = (image_id[:, None] == image_id[None, :]) | (text_id[:, None] == text_id[None, :])
    return (same if mode == "positive" else own), ~same


def cross_entropy(logits, positive, negative):
    """Mean over rows, the target spread evenly over a row's positives."""
    log_total = jax.nn.logsumexp(logits, axis=1, where=positive | negative)
    target = positive / positive.sum(axis=1, keepdims=True)
    return jnp.mean(log_total - jnp.sum(target * logits, axis=1))


def softmax(image, text, scale, bias, positive, negative):
    logits = scale * image @ text.T + 0 * bias
    rows = cross_entropy(logits, positive, negative)
    return (rows + cross_entropy(logits.T, positive.T, negative.T)) / 2


def sigmoid(image, text, scale, bias, positive, negative):
    logits = scale * image @ text.T + bias
    label = jnp.where(positive, 1.0, -1.0)
    pairs = jnp.where(positive | negative, -jax.nn.log_sigmoid(label * logits), 0.0)
    return jnp.sum(pairs) / len(image)


LOSSES = {"softmax_gather": softmax, "softmax_ring": softmax, "sigmoid_ring": sigmoid}


def value_and_grad(function, *arguments):
    """function's value and gradients by all of its arguments, in float64 on one device."""
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        arguments = jax.tree.map(lambda a: np.asarray(a, np.float64), arguments)
        value, gradients = jax.value_and_grad(function, tuple(range(len(arguments))))(*arguments)
        return float(value), jax.tree.map(np.asarray, gradients)


def metrics(image, text, scale, bias, positive, negative):
    image, text = np.asarray(image, np.float64), np.asarray(text, np.float64)
    logits = scale * image @ text.T + bias

    def accuracy(logits, positive, negative):
        best = np.where(positive, logits, -np.inf).max(axis=1)
        return np.mean(best > np.where(negative, logits, -np.inf).max(axis=1) + 1e-6 * scale)

    return {
        "image_to_text_accuracy": accuracy(logits, positive, negative),
        "text_to_image_accuracy": accuracy(logits.T, positive.T, negative.T),
        "positive_logit_mean": logits[positive].mean(),
        "negative_logit_mean": logits[negative].mean() if negative.any() else 0.0,
    }


def error(found, expected):
    """Largest over the leaves of max |a - b| / max(leaf's max, 1e-4 x tree's max)."""
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    assert len(found) == len(expected)
    floor = max(1e-4 * max(np.abs(b).max() for b in expected), np.finfo(np.float64).tiny)
    return max(
        np.abs(np.asarray(a, np.float64) - b).max() / max(np.abs(b).max(), floor)
        for a, b in zip(found, expected, strict=True)
    )
