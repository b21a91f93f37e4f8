"""The image tower's other forms: no class token, pooling by attention or mean, no projection."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.models import clip

SIGLIP = {
    "embed_dim": 16,
    "activation": "gelu_tanh",
    "layer_norm_epsilon": 1e-6,
    "logit_bias": True,
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
    "vision": {
        "image_size": 16,
        "patch_size": 8,
        "width": 16,
        "layers": 2,
        "head_width": 8,
        "mlp_ratio": 2.5,
        "class_token": False,
        "pooling": "map",
        "ln_pre": False,
        "patch_bias": True,
        "projection": False,
    },
    "text": {
        "context_length": 6,
        "vocab_size": 20,
        "width": 16,
        "heads": 2,
        "layers": 1,
        "mlp_ratio": 2.5,
        "causal": False,
        "pooling": "last",
        "projection_bias": True,
    },
}
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)


def drawn(model):
    """Parameters random everywhere, so that every one matters."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(clip.initialise(clip.from_dict(model)), jax.random.key(0))["params"]
    return jax.tree.map(lambda x: np.float32(0.4 * rng.normal(size=x.shape)), shapes)


def norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]


def mlp(x, p):
    x = x @ p["up"]["kernel"] + p["up"]["bias"]
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x @ p["down"]["kernel"] + p["down"]["bias"]


def attention(queries, tokens, p):
    query, key, value = (
        np.einsum("btd,dhk->bhtk", x, p[name]["kernel"]) + p[name]["bias"][:, None]
        for x, name in ((queries, "query"), (tokens, "key"), (tokens, "value"))
    )
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    x = weights / weights.sum(-1, keepdims=True) @ value
    return np.einsum("bhtk,hkd->btd", x, p["out"]["kernel"]) + p["out"]["bias"]


def siglip_image(params):
    """SigLIP's image tower written down in float64, with `params` in the layout of scan=False."""
    p = jax.tree.map(np.float64, params["vision"])
    pixels = np.float64(IMAGE) / 127.5 - 1
    patches = pixels.reshape(3, 2, 8, 2, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(3, 4, -1)
    x = patches @ p["patch_embedding"]["kernel"].reshape(-1, 16) + p["patch_embedding"]["bias"]
    x = x + p["position_embedding"]
    for block in (p["block_0"], p["block_1"]):
        y = norm(x, block["ln_1"])
        x = x + attention(y, y, block["attention"])
        x = x + mlp(norm(x, block["ln_2"]), block["mlp"])
    x = norm(x, p["ln_post"])
    x = attention(np.broadcast_to(p["pool"]["probe"], (3, 1, 16)), x, p["pool"]["attention"])
    x = (x + mlp(norm(x, p["pool"]["ln"]), p["pool"]["mlp"]))[:, 0]
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_siglip_image_tower_against_float64():
    model = SIGLIP | {"scan": False}
    params = drawn(model)
    assert set(params["vision"]) == {
        *("block_0", "block_1", "ln_post", "patch_embedding", "pool", "position_embedding"),
    }
    encode = functools.partial(clip.from_dict(model).apply, method="encode_image")
    found = jax.jit(encode)({"params": params}, IMAGE)
    np.testing.assert_allclose(found, siglip_image(params), atol=1e-5)


@pytest.mark.parametrize("scan", [True, False])
def test_siglip_starts_as_a_sigmoid_model_and_ends_in_float32(scan):
    model = clip.from_dict(SIGLIP | {"scan": scan, "dtype": "bfloat16"})
    params = jax.jit(clip.initialise(model))(jax.random.key(0))["params"]
    text = RNG.integers(0, 20, (3, 6)).astype(np.int32)
    out = jax.jit(model.apply)({"params": params}, IMAGE, text)
    assert float(out["logit_scale"]) == pytest.approx(10)
    assert float(out["logit_bias"]) == -10
    for name in ("image_embed", "text_embed"):
        assert out[name].dtype == jnp.float32
        np.testing.assert_allclose(np.linalg.norm(out[name], axis=1), 1, atol=1e-5)


def test_mean_pooling_is_the_mean_of_the_normalised_tokens():
    """Tokens that all see the same: two equal halves of an image pool to either."""
    vision = SIGLIP["vision"] | {"pooling": "mean", "layers": 1, "class_token": True}
    model = SIGLIP | {"vision": vision}
    params = drawn(model)
    params["vision"]["position_embedding"][:] = 0
    encode = jax.jit(functools.partial(clip.from_dict(model).apply, method="encode_image"))
    rolled = np.roll(IMAGE, 8, axis=1)  # whole patches change places
    np.testing.assert_allclose(
        encode({"params": params}, IMAGE), encode({"params": params}, rolled), atol=1e-6
    )
    params["vision"]["position_embedding"][:] = RNG.normal(size=(5, 16))
    moved = encode({"params": params}, IMAGE) - encode({"params": params}, rolled)
    assert np.max(np.abs(moved)) > 1e-3
