"""The modified ResNets: against float64, BatchNorm over the global batch, running averages."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from clipjax.common.exits import ConfigError
from clipjax.models import clip, resnet, zoo
from clipjax.models import config as model_config
from clipjax.models.batch_norm import BatchNorm
from clipjax.parallel.mesh import BATCH_AXES, make_mesh

TINY = {
    "embed_dim": 12,
    "vision": {
        "kind": "resnet",
        "image_size": 16,
        "width": 4,
        "layers": (2, 1),
        "head_width": 8,
    },
    "text": {"context_length": 4, "vocab_size": 20, "width": 8, "heads": 2, "layers": 1},
}
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)


@functools.cache
def variables():
    """Random everywhere, so that everything matters."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(clip.initialise(clip.from_dict(TINY)), jax.random.key(0))

    def draw(path, leaf):
        positive = jax.tree_util.keystr(path).endswith("['var']")
        drawn = rng.normal(size=leaf.shape)
        return np.float32(0.5 + np.abs(drawn) if positive else 0.5 * drawn)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def conv(x, kernel, *, stride=1):
    size = len(kernel)
    pad = size // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return np.einsum("bhwcij,ijco->bhwo", windows[:, ::stride, ::stride], kernel)


def pool(x):
    batch, height, width, features = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, features).mean((2, 4))


def resnet_image(params, stats, *, train):
    """The image tower written down in float64."""
    p, s = jax.tree.map(np.float64, (params["vision"], stats["vision"]))

    def unit(x, name, *, stride=1, last=False):
        p_unit, s_unit = p, s
        for part in name.split("/"):
            p_unit, s_unit = p_unit[part], s_unit[part]
        x = conv(x, p_unit["conv"]["kernel"], stride=stride)
        mean, var = s_unit["norm"]["mean"], s_unit["norm"]["var"]
        if train:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        x = (x - mean) / np.sqrt(var + 1e-5)
        x = x * p_unit["norm"]["scale"] + p_unit["norm"]["bias"]
        return x if last else np.maximum(x, 0)

    x = (np.float64(IMAGE) / 255 - model_config.IMAGE_MEAN) / model_config.IMAGE_STD
    x = unit(unit(unit(x, "stem_1", stride=2), "stem_2"), "stem_3")
    x = pool(x)
    for name, halves, shortcut in (
        ("stage_1_block_0", False, True),
        ("stage_1_block_1", False, False),
        ("stage_2_block_0", True, True),
    ):
        y = unit(unit(x, f"{name}/in"), f"{name}/middle")
        y = unit(pool(y) if halves else y, f"{name}/out", last=True)
        if shortcut:
            x = unit(pool(x) if halves else x, f"{name}/shortcut", last=True)
        x = np.maximum(x + y, 0)
    x = x.reshape(len(x), -1, x.shape[-1])
    x = np.concatenate([x.mean(1, keepdims=True), x], axis=1) + p["pool"]["position_embedding"]
    p = p["pool"]["attention"]
    query, key, value = (
        np.einsum("btd,dhk->bhtk", tokens, p[name]["kernel"]) + p[name]["bias"][:, None]
        for tokens, name in ((x[:, :1], "query"), (x, "key"), (x, "value"))
    )
    weights = np.exp(query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1]))
    mixed = weights / weights.sum(-1, keepdims=True) @ value
    x = np.einsum("bhqk,hkd->bd", mixed, p["out"]["kernel"]) + p["out"]["bias"]
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("train", [False, True])
def test_image_tower_against_float64(train):
    encode = functools.partial(
        clip.from_dict(TINY).apply, method="encode_image", train=train, mutable=["batch_stats"]
    )
    found, changed = jax.jit(encode)(variables(), IMAGE)
    wanted = resnet_image(variables()["params"], variables()["batch_stats"], train=train)
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    before = variables()["batch_stats"]["vision"]["stem_1"]["norm"]["mean"]
    moved = np.max(np.abs(changed["batch_stats"]["vision"]["stem_1"]["norm"]["mean"] - before))
    assert moved > 1e-3 if train else moved == 0


def test_a_block_starts_as_its_shortcut():
    block = resnet.Bottleneck(
        inner=2,
        stride=1,
        train=False,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        constrain=lambda x: x,
    )
    x = np.float32(RNG.normal(size=(2, 4, 4, 8)))
    out, fresh = block.init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(out, np.maximum(x, 0))
    assert np.any(np.asarray(fresh["params"]["out"]["conv"]["kernel"]) != 0)


@pytest.mark.parametrize("sizes", [(1, 8), (2, 4)])
def test_statistics_are_of_the_global_batch(sizes):
    """Value, gradient and running averages on 8 devices against float64 over all rows."""
    mesh = make_mesh({"data": sizes[0], "fsdp": sizes[1], "tensor": 1})
    x = np.float32(
        3 + RNG.normal(size=(16, 2, 2, 5)) * np.linspace(0.5, 4, 16)[:, None, None, None]
    )
    norm = BatchNorm(train=True, dtype=jnp.float32, param_dtype=jnp.float32)
    start = norm.init(jax.random.key(0), x)
    weights = np.float32(RNG.normal(size=x.shape))

    def loss(x):
        out, changed = norm.apply(start, x, mutable=["batch_stats"])
        return jnp.sum(weights * out), (out, changed["batch_stats"])

    placed = jax.device_put(x, jax.NamedSharding(mesh, P(BATCH_AXES)))
    (_, (out, stats)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(placed)

    wide = np.float64(x)
    mean, var, count = wide.mean((0, 1, 2)), wide.var((0, 1, 2)), 16 * 2 * 2
    normal = (wide - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(out, normal, atol=2e-5)
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-5)
    # PyTorch's running variance is the unbiased one: torch.nn.BatchNorm2d, momentum 0.1.
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var * count / (count - 1), rtol=1e-5)
    wanted = weights - weights.mean((0, 1, 2)) - normal * np.mean(weights * normal, (0, 1, 2))
    np.testing.assert_allclose(gradient, wanted / np.sqrt(var + 1e-5), atol=2e-5)


def test_remat_changes_no_number():
    def loss(params, remat):
        model = clip.from_dict(TINY | {"vision": TINY["vision"] | {"remat": remat}})
        out, _ = model.apply(
            {**variables(), "params": params},
            IMAGE,
            method="encode_image",
            train=True,
            mutable=["batch_stats"],
        )
        return jnp.sum(jnp.sin(5 * out))

    gradients = [
        jax.jit(jax.grad(functools.partial(loss, remat=remat)))(variables()["params"])
        for remat in ("none", "block")
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *gradients)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("image_size", 20, r"image_size is 20, not a multiple of 8"),
        ("layers", (), r"layers is \(\); give each stage's blocks"),
        ("width", 3, r"width is 3; it must be even"),
        ("patch_size", 8, r"model\.vision\.patch_size is not a setting"),
    ],
)
def test_impossible_shapes_are_named(key, value, message):
    with pytest.raises(ConfigError, match=message):
        model_config.parse(TINY | {"vision": TINY["vision"] | {key: value}})


def test_lists_from_json_will_do():
    stored = zoo.get("RN50")
    stored["vision"]["layers"] = [3, 4, 6, 3]
    assert clip.from_dict(stored) == clip.from_dict(zoo.get("RN50"))
