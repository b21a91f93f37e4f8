"""The three losses, value, gradient and metrics, against a float64 one-device oracle."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clipjax import losses
from clipjax.common.exits import ConfigError
from clipjax.losses.positives import Positives
from tests.losses import oracle

NAMES = tuple(losses.LOSSES)
RINGS = ("softmax_ring", "sigmoid_ring")
MESHES = {  # name: axes and sizes of the mesh, axes of the batch
    "8": ({"data": 8}, "data"),
    "2x4": ({"data": 2, "fsdp": 4}, ("data", "fsdp")),
    "4x2": ({"data": 4, "fsdp": 2}, ("data", "fsdp")),
    "1": ({"data": 1}, ("data",)),
    "2x2x2": ({"data": 2, "fsdp": 2, "tensor": 2}, ("data", "fsdp")),
}
SCALARS = {"logit_scale": 20.0, "logit_bias": -6.0}
METRICS = (
    "image_to_text_accuracy",
    "text_to_image_accuracy",
    "positive_logit_mean",
    "negative_logit_mean",
)


def make_mesh(name):
    shape, batch_axes = MESHES[name]
    count = int(np.prod(list(shape.values())))
    devices = np.array(jax.devices()[:count]).reshape(tuple(shape.values()))
    return Mesh(devices, tuple(shape)), batch_axes


def normalise(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def embeddings(count=64, width=16, *, seed=0, likeness=0.6):
    """Two float32 [count, width] of unit rows, partners alike enough to be found sometimes."""
    rng = np.random.default_rng(seed)
    image, noise = rng.normal(size=(2, count, width))
    text = likeness * image + (1 - likeness) * 1.5 * noise
    return normalise(image).astype(np.float32), normalise(text).astype(np.float32)


def hash_ids(count=64):
    """Captions that repeat in runs and images that repeat at a distance, across devices."""
    rng = np.random.default_rng(1)
    image_id = np.arange(count) % (count - count // 4)
    text_id = np.repeat(np.arange(count), 3)[:count]
    shuffled = rng.permutation(2**32 - 1 - np.arange(4 * count))
    return shuffled[image_id].astype(np.uint32), shuffled[text_id].astype(np.uint32)


def run(name, image, text, *, mesh="8", ids=None, mode=None, **options):
    """Loss, metrics and gradients by both embeddings, the scale and the bias."""
    mesh, batch_axes = make_mesh(mesh)
    place = partial(jax.device_put, device=NamedSharding(mesh, PartitionSpec(batch_axes)))
    image, text = place(image), place(text)
    positives = None if ids is None else Positives(*map(place, ids), mode=mode)

    def loss(image, text, logit_scale, logit_bias, positives):
        return losses.get(name)(
            image,
            text,
            logit_scale=logit_scale,
            logit_bias=logit_bias,
            mesh=mesh,
            batch_axes=batch_axes,
            positives=positives,
            **options,
        )

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))
    (value, metrics), gradients = step(image, text, *SCALARS.values(), positives)
    assert value.dtype == jnp.float32 and value.shape == ()
    assert set(metrics) == set(METRICS)
    assert all(m.dtype == jnp.float32 and m.shape == () for m in metrics.values())
    return float(value), {key: float(m) for key, m in metrics.items()}, gradients


def check(name, image, text, *, ids=None, mode=None, tolerance=1e-5, **options):
    """Compare with the oracle; returns the error of the gradients."""
    value, metrics, gradients = run(name, image, text, ids=ids, mode=mode, **options)
    both = {} if ids is None else {"image_id": ids[0], "text_id": ids[1]}
    masks = oracle.masks(len(image), **both, mode=mode)
    function = partial(oracle.LOSSES[name], positive=masks[0], negative=masks[1])
    expected, expected_gradients = oracle.value_and_grad(function, image, text, *SCALARS.values())
    assert abs(value - expected) <= tolerance * max(abs(expected), 0.1)
    gradient_error = oracle.error(gradients, expected_gradients)
    assert gradient_error <= tolerance
    bias = SCALARS["logit_bias"] if name.startswith("sigmoid") else 0.0
    expected_metrics = oracle.metrics(image, text, SCALARS["logit_scale"], bias, *masks)
    assert metrics == pytest.approx(expected_metrics, rel=10 * tolerance, abs=10 * tolerance)
    return gradient_error


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", NAMES)
def test_value_gradient_and_metrics_equal_oracle(name, mesh):
    options = {"block_size": 4} if name in RINGS else {}
    check(name, *embeddings(), mesh=mesh, **options)


@pytest.mark.parametrize(
    ("count", "block_size"),
    [
        (64, 1024),  # one chunk, smaller than the block
        (64, 3),  # 8 rows in chunks of 3, 3 and 2
        (40, 4),  # 5 rows in chunks of 3 and 2
        (40, 1),  # a chunk a row
    ],
)
@pytest.mark.parametrize("name", RINGS)
def test_any_block_size(name, count, block_size):
    check(name, *embeddings(count), mesh="2x4", block_size=block_size)


def test_padding_on_one_device():
    check("softmax_ring", *embeddings(33), mesh="1", block_size=10)


@pytest.mark.parametrize("mode", ["positive", "mask"])
@pytest.mark.parametrize("name", NAMES)
def test_duplicates_equal_oracle(name, mode):
    options = {"block_size": 3} if name in RINGS else {}
    check(name, *embeddings(), mesh="4x2", ids=hash_ids(), mode=mode, **options)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("softmax_gather", "positive"), ("softmax_ring", "mask"), ("sigmoid_ring", "positive")],
)
def test_distinct_ids_change_nothing(name, mode):
    image, text = embeddings(32)
    distinct = np.arange(32, dtype=np.uint32)
    value, metrics, gradients = run(name, image, text)
    same = run(name, image, text, ids=(distinct, distinct), mode=mode)
    assert same[0] == pytest.approx(value, rel=1e-6)
    assert same[1] == pytest.approx(metrics, rel=1e-5)
    assert oracle.error(same[2], jax.tree.map(np.asarray, gradients)) < 2e-6


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one_caption_has_no_negatives(name):
    image, text = embeddings(32)
    same = np.zeros(32, np.uint32)
    check(name, image, text, ids=(np.arange(32, dtype=np.uint32), same), mode="mask")


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_operands(name):
    image, text = (x.astype(jnp.bfloat16) for x in embeddings(64, 32))
    options = {"block_size": 4} if name in RINGS else {}
    check(name, image, text, mesh="2x4", tolerance=5e-3, **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_products_keep_the_operands_dtype_and_accumulate_in_float32(name, dtype):
    mesh, batch_axes = make_mesh("8")

    def loss(image, text):
        return losses.get(name)(
            image, text, logit_scale=10.0, logit_bias=-1.0, mesh=mesh, batch_axes=batch_axes
        )[0]

    shape = jax.ShapeDtypeStruct((64, 16), dtype)
    text = jax.jit(jax.grad(loss, (0, 1))).lower(shape, shape).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) >= 4
    kind = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    for line in products:
        assert re.search(rf"x{kind}>, tensor<[0-9x]+x{kind}>\) -> tensor<[0-9x]+xf32>", line)
        assert ("HIGHEST" in line) == (dtype == "float32")


@pytest.mark.parametrize("name", NAMES)
def test_a_collapsed_model_has_no_accuracy(name):
    one = normalise(np.random.default_rng(0).normal(size=(1, 16))).astype(np.float32)
    collapsed = np.repeat(one, 64, axis=0)
    _, metrics, gradients = run(name, collapsed, collapsed)
    assert metrics["image_to_text_accuracy"] == 0
    assert metrics["text_to_image_accuracy"] == 0
    assert all(np.isfinite(np.asarray(g)).all() for g in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_ties_are_wrong_and_only_they(name):
    eye = np.eye(16, dtype=np.float32)
    image, text = eye, eye.copy()
    text[9] = text[2]  # text 9 should be found by image 9 and ties with text 2 for image 2
    _, metrics, _ = run(name, image, text)
    assert metrics["image_to_text_accuracy"] == 14 / 16
    assert metrics["text_to_image_accuracy"] == 15 / 16


@pytest.mark.parametrize("name", NAMES)
def test_large_scale_stays_finite(name):
    image, _ = embeddings()
    mesh, batch_axes = make_mesh("8")

    def loss(image, text):
        return losses.get(name)(
            image, text, logit_scale=100.0, logit_bias=0.0, mesh=mesh, batch_axes=batch_axes
        )[0]

    masks = oracle.masks(len(image))
    function = partial(
        oracle.LOSSES[name], scale=100.0, bias=0.0, positive=masks[0], negative=masks[1]
    )
    found = jax.jit(jax.value_and_grad(loss, (0, 1)))(image, -image)  # every partner is opposite
    expected = oracle.value_and_grad(function, image, -image)
    assert float(found[0]) == pytest.approx(expected[0], rel=1e-5)
    assert oracle.error(found[1], expected[1]) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_metrics_carry_no_gradient(name):
    image, text = embeddings(16)
    mesh, batch_axes = make_mesh("8")

    def total(image, text, scale):
        metrics = losses.get(name)(
            image, text, logit_scale=scale, logit_bias=-1.0, mesh=mesh, batch_axes=batch_axes
        )[1]
        return sum(metrics.values())

    gradients = jax.jit(jax.grad(total, (0, 1, 2)))(image, text, 10.0)
    assert all(not np.asarray(g).any() for g in gradients)


@pytest.mark.parametrize(
    ("name", "mesh"), [(name, "2x4") for name in NAMES] + [("softmax_ring", "8")]
)
def test_gradient_reaches_sharded_encoders(name, mesh):
    """Through jit(grad) from outside, down to weights sharded as FSDP shards them."""
    mesh, batch_axes = make_mesh(mesh)
    rng = np.random.default_rng(2)
    inputs = {key: rng.normal(size=(64, 24)).astype(np.float32) for key in ("image", "text")}
    params = {key: rng.normal(size=(24, 16)).astype(np.float32) for key in ("image", "text")}
    params |= {"logit_scale": np.float32(np.log(10.0)), "logit_bias": np.float32(-3.0)}

    def encode(params, inputs, key):
        x = inputs[key] @ params[key]
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    def step_loss(params, inputs):
        with jax.default_matmul_precision("highest"):
            embeds = [encode(params, inputs, key) for key in ("image", "text")]
        loss, metrics = losses.get(name)(
            *embeds,
            logit_scale=jnp.exp(params["logit_scale"]),
            logit_bias=params["logit_bias"],
            mesh=mesh,
            batch_axes=batch_axes,
        )
        return 3 * loss, metrics

    def oracle_loss(params):
        embeds = [encode(params, inputs, key) for key in ("image", "text")]
        masks = oracle.masks(64)
        scale, bias = jnp.exp(params["logit_scale"]), params["logit_bias"]
        return 3 * oracle.LOSSES[name](*embeds, scale, bias, *masks)

    last = mesh.axis_names[-1]
    shardings = {
        key: NamedSharding(mesh, PartitionSpec(last) if value.ndim else PartitionSpec())
        for key, value in params.items()
    }
    batch = NamedSharding(mesh, PartitionSpec(batch_axes))
    step = jax.jit(
        jax.value_and_grad(step_loss, has_aux=True),
        in_shardings=(shardings, batch),
        out_shardings=(None, shardings),
    )
    (value, _), gradients = step(params, inputs)
    expected, (expected_gradients,) = oracle.value_and_grad(oracle_loss, params)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert oracle.error(gradients, expected_gradients) < 1e-5
    assert gradients["image"].sharding.spec == PartitionSpec(last)


def test_unknown_names():
    with pytest.raises(ConfigError, match='did you mean "softmax_ring"'):
        losses.get("softmax_rin")
    with pytest.raises(ConfigError, match='"maks" is unknown'):
        Positives(np.zeros(2, np.uint32), np.zeros(2, np.uint32), mode="maks")
