"""The whole model at a tiny shape: initialisation, layouts, remat, dtypes, normalisation."""

import copy
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.common.exits import ConfigError
from clipjax.models import clip
from clipjax.models.pixels import normalize_pixels
from clipjax.models.transformer import stack_blocks, unstack_blocks

TINY = {
    "embed_dim": 12,
    "vision": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 3, "head_width": 8},
    "text": {"context_length": 6, "vocab_size": 20, "width": 24, "heads": 2, "layers": 2},
}


def tiny(*, remat="none", **changes):
    model = copy.deepcopy(TINY) | changes
    model["vision"]["remat"] = model["text"]["remat"] = remat
    return clip.from_dict(model)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    text = rng.integers(1, 18, (4, 6)).astype(np.int32)
    text[:, 4], text[:, 5] = 19, 0
    return rng.integers(0, 256, (4, 16, 16, 3)).astype(np.uint8), text


@pytest.fixture(scope="module")
def params():
    """Random everywhere, so that every parameter matters; drawn by numpy, to compile nothing."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(clip.initialise(tiny()), jax.random.key(0))["params"]

    def draw(path, leaf):
        centre = 1 if "scale" in jax.tree_util.keystr(path) else 0
        return jnp.asarray(centre + 0.2 * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def loss_and_gradient(model, params, batch):
    def loss(params):
        out = model.apply({"params": params}, *batch)
        logits = out["logit_scale"] * out["image_embed"] @ out["text_embed"].T
        return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits)))

    return jax.jit(jax.value_and_grad(loss))(params)


def test_outputs_are_normalised_float32(params, batch):
    out = jax.jit(tiny().apply)({"params": params}, *batch)
    for name in ("image_embed", "text_embed"):
        assert out[name].shape == (4, 12)
        assert out[name].dtype == jnp.float32
        np.testing.assert_allclose(np.linalg.norm(out[name], axis=1), 1, atol=1e-6)
    assert out["logit_scale"].dtype == jnp.float32
    np.testing.assert_allclose(out["logit_scale"], np.exp(params["logit_scale"]), rtol=1e-6)


def test_features_are_what_the_projection_is_applied_to(params, batch):
    variables = {"params": params}
    features, embed = (
        jax.jit(lambda image, m=method: tiny().apply(variables, image, method=m))(batch[0])
        for method in ("image_features", "encode_image")
    )
    assert features.shape == (4, 16) and features.dtype == jnp.float32
    projected = features @ params["vision"]["projection"]["kernel"]
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(projected, embed, atol=1e-5)


def test_encoders_are_methods(params, batch):
    @jax.jit
    def encode(params, images, texts):
        variables = {"params": params}
        return (
            tiny().apply(variables, images, texts),
            tiny().apply(variables, images, method="encode_image"),
            tiny().apply(variables, texts, method="encode_text"),
        )

    out, image, text = encode(params, *batch)
    np.testing.assert_allclose(image, out["image_embed"], atol=1e-6)
    np.testing.assert_allclose(text, out["text_embed"], atol=1e-6)


def test_scan_and_loop_give_the_same_numbers(params, batch, assert_gradients_close):
    loop_params = unstack_blocks(params)
    assert set(loop_params["vision"]) >= {"block_0", "block_1", "block_2"}
    assert "blocks" not in loop_params["vision"]
    loss, gradient = loss_and_gradient(tiny(), params, batch)
    loop_loss, loop_gradient = loss_and_gradient(tiny(scan=False), loop_params, batch)
    np.testing.assert_allclose(loop_loss, loss, rtol=1e-6)
    assert_gradients_close(stack_blocks(loop_gradient), gradient, tolerance=1e-5)


def test_block_layouts_convert_both_ways(params):
    expected = jax.eval_shape(clip.initialise(tiny(scan=False)), jax.random.key(0))["params"]
    loop = unstack_blocks(params)
    assert jax.tree.map(jnp.shape, loop) == jax.tree.map(lambda x: x.shape, expected)
    jax.tree.map(np.testing.assert_array_equal, stack_blocks(loop), params)
    as_numpy = stack_blocks(jax.tree.map(np.asarray, loop))
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(as_numpy))


def test_bfloat16_computes_close_and_keeps_float32_ends(params, batch):
    model = tiny(dtype="bfloat16")
    out = jax.jit(model.apply)({"params": params}, *batch)
    exact = jax.jit(tiny().apply)({"params": params}, *batch)
    for name in ("image_embed", "text_embed"):
        assert out[name].dtype == jnp.float32
        np.testing.assert_allclose(out[name], exact[name], atol=0.03)
        assert not np.array_equal(out[name], out[name].astype(jnp.bfloat16))
    fresh = jax.eval_shape(clip.initialise(model), jax.random.key(0))["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}


def test_constrain_sees_every_block_boundary(params, batch):
    shapes = []

    def constrain(x):
        shapes.append(x.shape)
        return x

    model = clip.from_dict(copy.deepcopy(TINY) | {"scan": False}, constrain=constrain)
    jax.eval_shape(model.apply, {"params": unstack_blocks(params)}, *batch)
    assert shapes == [(4, 5, 16)] * 4 + [(4, 6, 24)] * 3


def test_pixels_are_normalised_as_released():
    image = np.array([[[[0, 0, 0], [255, 255, 255], [124, 116, 104]]]], np.uint8)
    golden = [
        [-1.7922626, -1.7520971, -1.4802198],
        [1.9303361, 2.0748837, 2.1458969],
        [0.0179423, -0.0111961, -0.0013329],
    ]
    pixels = normalize_pixels(image, tiny().config)
    np.testing.assert_allclose(pixels[0, 0], golden, atol=2e-6)


def test_initialisation_statistics():
    """Standard deviations of the released scheme; a wide model so that samples are many."""
    model = {
        "embed_dim": 64,
        "vision": {"image_size": 32, "patch_size": 4, "width": 128, "layers": 3, "head_width": 32},
        "text": {"context_length": 64, "vocab_size": 512, "width": 64, "heads": 2, "layers": 2},
    }
    params = jax.jit(clip.initialise(clip.from_dict(model)))(jax.random.key(0))["params"]
    params = jax.tree.map(np.asarray, params)
    golden = {"text/token_embedding/embedding": 0.02, "text/position_embedding": 0.01}
    golden["vision/patch_embedding/kernel"] = (3 * 4 * 4 * 3) ** -0.5  # uniform ±fan_in^-½
    golden["vision/class_embedding"] = golden["vision/position_embedding"] = 128**-0.5
    golden["vision/projection/kernel"] = 128**-0.5
    golden["text/projection/kernel"] = 64**-0.5
    for tower, width, layers in (("vision", 128, 3), ("text", 64, 2)):
        blocks = f"{tower}/blocks"
        for name in ("query", "key", "value"):
            golden[f"{blocks}/attention/{name}/kernel"] = width**-0.5
        golden[f"{blocks}/attention/out/kernel"] = width**-0.5 * (2 * layers) ** -0.5
        golden[f"{blocks}/mlp/up/kernel"] = (2 * width) ** -0.5
        golden[f"{blocks}/mlp/down/kernel"] = width**-0.5 * (2 * layers) ** -0.5

    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in golden:
            sigma = golden.pop(name)
            tolerance = 4 / math.sqrt(2 * leaf.size)  # four standard errors of a deviation
            assert abs(np.std(leaf) / sigma - 1) < tolerance, name
            assert abs(np.mean(leaf)) < 4 * sigma / math.sqrt(leaf.size), name
        elif name.endswith("/scale"):
            assert np.all(leaf == 1), name
        elif name.endswith("/bias"):
            assert np.all(leaf == 0), name
        else:
            assert name == "logit_scale"
            np.testing.assert_allclose(leaf, 2.6592600, rtol=1e-6)
    assert not golden
    kernel = params["vision"]["blocks"]["mlp"]["up"]["kernel"]
    assert not np.array_equal(kernel[0], kernel[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "gellu"}, 'model.activation: "gellu" is unknown'),
        ({"dtype": "bf16"}, 'model.dtype: "bf16" is unknown'),
        ({"width": 3}, "model.width is not a setting"),
    ],
)
def test_from_dict_names_the_wrong_setting(change, message):
    with pytest.raises(ConfigError, match=message):
        clip.from_dict(TINY | change)


def test_from_dict_names_an_unknown_remat():
    with pytest.raises(ConfigError, match=r"model\.vision\.remat"):
        tiny(remat="blocks")
