"""The text tower: causality, pooling at end of text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.models.compute import Compute
from clipjax.models.config import TextConfig
from clipjax.models.text import TextTransformer, pool_end_of_text

CONTEXT = 8
END = 29


def encoder(*, causal):
    settings = TextConfig(
        context_length=CONTEXT,
        vocab_size=END + 1,
        width=16,
        heads=2,
        layers=2,
        causal=causal,
        pooling="end_of_text" if causal else "last",
        projection_bias=not causal,
        activation="quick_gelu",
        layer_norm_epsilon=1e-5,
    )
    model = TextTransformer(settings, embed_dim=6, compute=Compute())
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, CONTEXT), jnp.int32))
    variables = jax.tree.map(lambda x: np.float32(rng.normal(size=x.shape)), shapes)
    return jax.jit(lambda text: model.apply(variables, text))


@pytest.fixture(scope="module")
def encode():
    return encoder(causal=True)


def caption(*ids):
    return np.array([ids], np.int32)


def test_what_follows_end_of_text_changes_nothing(encode):
    plain = encode(caption(28, 3, 4, 5, END, 0, 0, 0))
    filled = encode(caption(28, 3, 4, 5, END, 7, 28, 9))
    np.testing.assert_array_equal(plain, filled)


@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_every_token_before_end_of_text_matters(encode, position):
    text = caption(28, 3, 4, 5, END, 0, 0, 0)
    changed = text.copy()
    changed[0, position] = 11
    assert np.max(np.abs(encode(text) - encode(changed))) > 1e-3


def test_pools_the_first_end_of_text():
    x = jnp.arange(2 * 5 * 3, dtype=jnp.float32).reshape(2, 5, 3)
    text = jnp.array([[28, 1, END, 0, 0], [28, END, END, 3, END]])
    np.testing.assert_array_equal(pool_end_of_text(x, text=text), jnp.stack([x[0, 2], x[1, 1]]))


def test_without_causality_every_token_matters_and_the_last_is_read():
    """SigLIP's text: padding is looked at too."""
    encode = encoder(causal=False)
    text = caption(3, 4, 5, END, 0, 0, 0, 0)
    for position in range(CONTEXT):
        changed = text.copy()
        changed[0, position] = 11
        assert np.max(np.abs(encode(text) - encode(changed))) > 1e-3
