"""The TPU kernels, interpreted: value and gradient against float64, on one device and on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax import config
from clipjax.build import model as build_model
from clipjax.common.exits import CleanExit
from clipjax.models import clip
from clipjax.models.kernels import attention, layer_norm, self_check
from clipjax.models.kernels.bias import add_bias
from clipjax.models.kernels.rows import KernelMesh
from clipjax.parallel.mesh import make_mesh

RNG = np.random.default_rng(0)
MESHES = [(1, 1, 1), (2, 2, 2), (1, 8, 1)]


def kernel_mesh(sizes):
    devices = jax.devices()[: int(np.prod(sizes))]
    return KernelMesh(
        make_mesh(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)), devices=devices), True
    )


def rounded(shape, dtype):
    """Random numbers that `dtype` holds exactly, and the same in float64."""
    x = jnp.asarray(RNG.normal(size=shape), dtype)
    return x, np.float64(x)


def assert_close(actual, expected, dtype):
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        error = np.max(np.abs(np.float64(a) - b)) / np.max(np.abs(b))
        assert error <= {jnp.float32: 1e-5, jnp.bfloat16: 5e-3}[dtype], error


def exact_attention(query, key, value, d_out, *, heads, causal):
    """Result and gradients of query, key and value, float64 [B, T, H·K]."""
    batch, tokens, width = query.shape
    query, key, value, d_out = (
        x.reshape(batch, tokens, heads, -1).swapaxes(1, 2) for x in (query, key, value, d_out)
    )
    scale = (width // heads) ** -0.5
    scores = query @ key.swapaxes(-1, -2) * scale
    if causal:
        scores[..., np.triu(np.ones((tokens, tokens), bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    d_weights = d_out @ value.swapaxes(-1, -2)
    d_scores = weights * (d_weights - np.sum(weights * d_weights, -1, keepdims=True)) * scale
    results = (
        weights @ value,
        d_scores @ key,
        d_scores.swapaxes(-1, -2) @ query,
        weights.swapaxes(-1, -2) @ d_out,
    )
    return [x.swapaxes(1, 2).reshape(batch, tokens, width) for x in results]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("tokens", "head_width", "mesh"),
    [(17, 64, (1, 1, 1)), (77, 32, (1, 1, 1)), (129, 64, (1, 1, 1)), (9, 64, (2, 2, 2))],
)
def test_attention_and_its_gradients(tokens, head_width, mesh, causal, dtype):
    at, heads = kernel_mesh(mesh), 256 // head_width
    inputs = [rounded((4, tokens, 256), dtype) for _ in range(4)]
    query, key, value, d_out = (x for x, _ in inputs)
    assert attention.fits(tokens=tokens, width=256, heads=heads, kernel_mesh=at)

    def call(query, key, value):
        return attention.attention(
            query, key=key, value=value, heads=heads, causal=causal, kernel_mesh=at
        )

    out, pull_back = jax.vjp(jax.jit(call), query, key, value)
    expected = exact_attention(*(x for _, x in inputs), heads=heads, causal=causal)
    assert_close([out, *pull_back(d_out)], expected, dtype)


def test_attention_does_not_overflow_on_large_scores():
    x = jnp.full((1, 9, 128), 60.0)
    out = attention.attention(
        x, key=x, value=x, heads=2, causal=True, kernel_mesh=kernel_mesh((1, 1, 1))
    )
    np.testing.assert_allclose(out, x, rtol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "mesh", "fits"),
    [
        ({"tokens": 257, "width": 1024, "heads": 16}, (1, 1, 1), True),
        ({"tokens": 577, "width": 1024, "heads": 16}, (1, 1, 1), True),
        ({"tokens": 257, "width": 1280, "heads": 16}, (1, 1, 1), False),  # 80 wide, across rows
        ({"tokens": 50, "width": 768, "heads": 12}, (1, 1, 8), False),  # 96 features a device
        ({"tokens": 4097, "width": 1024, "heads": 16}, (1, 1, 1), False),  # scores of 64 MiB
    ],
)
def test_which_shapes_the_attention_kernel_takes(sizes, mesh, fits):
    assert attention.fits(kernel_mesh=kernel_mesh(mesh), **sizes) == fits


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("mesh", MESHES)
def test_layer_norm_and_its_gradients(mesh, dtype):
    (x, wide), (around, wide_around), (through, wide_through) = (
        rounded((8, 5, 96), dtype) for _ in range(3)
    )
    scale, bias = (jnp.asarray(RNG.normal(size=96), jnp.float32) for _ in range(2))
    at = kernel_mesh(mesh)

    def call(x, scale, bias):
        return layer_norm.layer_norm(x, scale=scale, bias=bias, epsilon=1e-5, kernel_mesh=at)

    (same, out), pull_back = jax.vjp(jax.jit(call), x, scale, bias)
    d_x, d_scale, d_bias = pull_back((around, through))

    centred = wide - wide.mean(-1, keepdims=True)
    per_deviation = 1 / np.sqrt(np.mean(centred**2, -1, keepdims=True) + 1e-5)
    normal, d_normal = centred * per_deviation, wide_through * np.float64(scale)
    along = np.mean(d_normal * normal, -1, keepdims=True)
    inner = d_normal - np.mean(d_normal, -1, keepdims=True) - normal * along
    expected = [
        normal * np.float64(scale) + np.float64(bias),
        wide_around + inner * per_deviation,
    ]
    np.testing.assert_array_equal(same, x)
    assert_close([out, d_x], expected, dtype)
    sums = [np.sum(wide_through * normal, (0, 1)), np.sum(wide_through, (0, 1))]
    assert_close([d_scale, d_bias], sums, jnp.float32)


@pytest.mark.parametrize("mesh", MESHES)
def test_bias_and_its_gradient(mesh):
    (x, wide), (d_out, wide_d_out) = (
        rounded((8, 5, 16), jnp.float32),
        rounded((8, 5, 16), jnp.float32),
    )
    bias = jnp.asarray(RNG.normal(size=16), jnp.float32)
    at = kernel_mesh(mesh)

    def call(x, bias):
        return add_bias(x, bias, kernel_mesh=at, features="tensor")

    out, pull_back = jax.vjp(jax.jit(call), x, bias)
    d_x, d_bias = pull_back(d_out)
    expected = [wide + np.float64(bias), wide_d_out, wide_d_out.sum((0, 1))]
    assert_close([out, d_x, d_bias], expected, jnp.float32)


MODEL = {
    "embed_dim": 16,
    "vision": {"image_size": 16, "patch_size": 8, "width": 256, "layers": 2, "head_width": 64},
    "text": {"context_length": 7, "vocab_size": 32, "width": 128, "heads": 2, "layers": 2},
}


SIGLIP = MODEL | {
    "activation": "gelu_tanh",
    "layer_norm_epsilon": 1e-6,
    "vision": MODEL["vision"]
    | {"layers": 1, "class_token": False, "pooling": "map", "ln_pre": False, "patch_bias": True},
    "text": MODEL["text"] | {"causal": False, "pooling": "last", "projection_bias": True},
}


@pytest.mark.parametrize(
    ("mesh", "shape"), [*((mesh, MODEL) for mesh in MESHES), ((2, 2, 2), SIGLIP)]
)
def test_a_model_with_kernels_is_the_model_without(mesh, shape, assert_gradients_close):
    image = RNG.integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
    text = RNG.integers(0, 32, (8, 7)).astype(np.int32)
    params = clip.initialise(clip.from_dict(shape))(jax.random.key(0))["params"]

    def loss(kernel_mesh):
        model = clip.from_dict(shape, kernel_mesh=kernel_mesh)

        def value(params):
            out = model.apply({"params": params}, image, text)
            return jnp.sum(jnp.sin(10 * out["image_embed"]) + jnp.cos(7 * out["text_embed"]))

        return jax.jit(jax.value_and_grad(value))(params)

    value, gradient = loss(None)
    kernel_value, kernel_gradient = loss(kernel_mesh(mesh))
    np.testing.assert_allclose(kernel_value, value, rtol=1e-5)
    assert_gradients_close(kernel_gradient, gradient, tolerance=2e-5)


@pytest.mark.long
def test_the_self_check_passes_and_sees_a_wrong_kernel(monkeypatch):
    narrow = MODEL["vision"] | {"width": 128}
    model = clip.from_dict(MODEL | {"dtype": "bfloat16", "vision": narrow})
    at = kernel_mesh((1, 1, 1))
    found = self_check.errors(model, kernel_mesh=at)
    assert set(found) == {"vision", "text"}
    assert all(self_check.passes(*pair) for pair in found.values()), found
    assert not self_check.passes(float("nan"), 1e-3)

    monkeypatch.setattr(attention, "LOG2_E", 1.0)
    found = self_check.errors(model, kernel_mesh=at)
    assert not any(self_check.passes(*pair) for pair in found.values()), found


def test_a_run_does_not_start_with_a_wrong_kernel(monkeypatch):
    c = config.defaults()
    c.model = config.model("custom", **MODEL)
    c.kernels = "on"
    mesh = make_mesh({"data": 8, "fsdp": 1, "tensor": 1})
    monkeypatch.setattr(self_check, "errors", lambda model, kernel_mesh: {"text": (0.5, 0.01)})
    with pytest.raises(CleanExit, match=r"text tower.*--config\.kernels=off"):
        build_model.check_kernels(c, mesh=mesh)
    c.kernels = "auto"  # no kernels here
    build_model.check_kernels(c, mesh=mesh)
