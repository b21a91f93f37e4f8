"""Activations, LayerNorm, attention and patches against plain numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.models import config as model_config
from clipjax.models.attention import causal_mask, dot_product_attention
from clipjax.models.layers import ACTIVATIONS, LayerNorm, l2_normalize
from clipjax.models.vit import PatchEmbedding

RNG = np.random.default_rng(0)


def test_activations_are_the_released_ones():
    x = np.array([-3.0, -1.0, 0.0, 0.5, 2.0], np.float32)
    quick = [-0.01807131, -0.15420424, 0.0, 0.35038843, 1.93565862]
    exact = [-0.00404969, -0.15865526, 0.0, 0.34573123, 1.95449974]
    np.testing.assert_allclose(ACTIVATIONS["quick_gelu"](x), quick, atol=1e-6)
    tanh = [-0.00363739, -0.15880801, 0.0, 0.34571401, 1.95459769]
    np.testing.assert_allclose(ACTIVATIONS["gelu"](x), exact, atol=1e-6)
    np.testing.assert_allclose(ACTIVATIONS["gelu_tanh"](x), tanh, atol=1e-6)
    assert set(ACTIVATIONS) == set(model_config.ACTIVATIONS)


def test_quick_gelu_gradient():
    x = jnp.linspace(-4, 4, 33)
    step = 1e-3
    f = ACTIVATIONS["quick_gelu"]
    numeric = (np.float64(f(x + step)) - np.float64(f(x - step))) / (2 * step)
    np.testing.assert_allclose(jax.vmap(jax.grad(f))(x), numeric, atol=1e-3)


def test_layer_norm_epsilon_and_float32_statistics():
    norm = LayerNorm(1e-5, dtype=jnp.float32)
    x = 1e-3 * RNG.normal(size=(4, 64)).astype(np.float32)  # variance 1e-6: epsilon decides
    variables = norm.init(jax.random.key(0), x)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    expected = centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(norm.apply(variables, x), expected, rtol=1e-4, atol=1e-6)

    # A large mean does not cancel the variance away.
    shifted = 1000 + RNG.normal(size=(4, 64)).astype(np.float32)
    assert abs(float(jnp.std(norm.apply(variables, shifted))) - 1) < 0.01

    # bfloat16 in, statistics in float32: as good as rounding the exact result.
    half = jnp.asarray(RNG.normal(size=(4, 64)) + 5, jnp.bfloat16)
    out = LayerNorm(1e-5, dtype=jnp.bfloat16).apply(variables, half)
    assert out.dtype == jnp.bfloat16
    exact = norm.apply(variables, half.astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(out, exact)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_against_float64(causal):
    query, key, value = RNG.normal(size=(3, 2, 3, 5, 4)).astype(np.float32)
    mask = causal_mask(5) if causal else None
    scores = np.float64(query) @ np.float64(key).swapaxes(-1, -2) / 2
    if causal:
        scores[..., np.triu(np.ones((5, 5), bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ np.float64(value)
    out = dot_product_attention(query, key=key, value=value, mask=mask)
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_patches_equal_a_convolution():
    image = RNG.normal(size=(2, 8, 12, 3)).astype(np.float32)
    layer = PatchEmbedding(4, 5, use_bias=False, dtype=jnp.float32, param_dtype=jnp.float32)
    variables = layer.init(jax.random.key(0), image)
    expected = jax.lax.conv_general_dilated(
        image,
        variables["params"]["kernel"],
        window_strides=(4, 4),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ).reshape(2, 6, 5)
    np.testing.assert_allclose(layer.apply(variables, image), expected, atol=1e-5)


def test_l2_normalize_is_finite_at_zero():
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(l2_normalize(x)))(jnp.zeros((2, 3)))
    assert value == 0
    assert np.all(np.isfinite(gradient))
