"""The step function on meshes of 8 devices against a plain one-device step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.build import program as build
from clipjax.models import clip
from clipjax.parallel import mesh as meshes
from clipjax.parallel import sharding
from clipjax.training.step import records_hash
from tests import tiny
from tests.losses import oracle

MESHES = (
    {"data": 1, "fsdp": 8, "tensor": 1},
    {"data": 2, "fsdp": 4, "tensor": 1},
    {"data": 8, "fsdp": 1, "tensor": 1},
    {"data": 2, "fsdp": 2, "tensor": 2},
)


def make_batch(config):
    rng = np.random.default_rng(0)
    size, rows = config.model.vision.image_size, config.batch_size
    vocab = config.model.text.vocab_size
    text = rng.integers(1, vocab - 2, (rows, config.model.text.context_length), np.int32)
    text[:, -1] = vocab - 1
    return {
        "image": rng.integers(0, 256, (rows, size, size, 3), np.uint8),
        "text": text,
        "record_id": rng.integers(0, 2**32, rows, np.uint32),
    }


def plain_loss_and_gradients(config, params, batch):
    """One device: the towers in float32, the loss and its gradient by the oracle in float64."""
    module = clip.from_dict(config.model.to_dict())

    def outputs(params):
        return module.apply({"params": params}, batch["image"], batch["text"])

    found, pull_back = jax.vjp(outputs, params)
    own, others = oracle.masks(config.batch_size)
    names = ("image_embed", "text_embed", "logit_scale")
    loss, (*gradients, _) = oracle.value_and_grad(
        lambda *arguments: oracle.softmax(*arguments, own, others),
        *(found[name] for name in names),
        0.0,
    )
    return loss, pull_back(
        {name: jnp.float32(gradient) for name, gradient in zip(names, gradients, strict=True)}
    )[0]


@pytest.mark.parametrize("sizes", MESHES, ids=lambda s: "x".join(map(str, s.values())))
def test_sharded_step_equals_the_plain_one(sizes):
    config = tiny.tiny()
    config.model.vision.update(width=128, head_width=32)
    config.model.text.update(width=128, heads=4)
    mesh = meshes.make_mesh(sizes)
    program = build.program(config, mesh=mesh, total_steps=10, warmup_steps=1)
    state = jax.jit(program.init, out_shardings=program.out_shardings[0])(jax.random.key(1))
    split = sharding.unsharded_fraction(state.params, program.out_shardings[0].params) < 0.1
    assert split == (mesh.shape["fsdp"] > 1)
    batch = make_batch(config)
    wanted_loss, wanted = plain_loss_and_gradients(config, jax.device_get(state.params), batch)
    placed = sharding.to_device(batch, mesh=mesh, batch_size=config.batch_size)
    new, metrics = jax.jit(program.step, out_shardings=program.out_shardings)(state, placed)
    assert float(metrics["train/loss"]) == pytest.approx(float(wanted_loss), rel=1e-5)
    # Adam's first moment after one step is (1 - beta1) times the gradient.
    moments = new.opt_state[1].mu
    found = jax.tree.map(lambda m: np.asarray(m) / (1 - config.optimizer.beta1), moments)
    # Key biases have no gradient, softmax does not see what all keys share: rounding is left.
    for tower in ("vision", "text"):
        for tree in (found, wanted):
            bias = tree[tower]["blocks"]["attention"]["key"].pop("bias")
            assert np.max(np.abs(bias)) < 1e-6
    assert oracle.error(found, wanted) < 1e-5
    norm = np.sqrt(sum(float(jnp.sum(g * g)) for g in jax.tree.leaves(wanted)))
    assert float(metrics["train/grad_norm"]) == pytest.approx(norm, rel=1e-5)
    assert int(new.step) == 1


def test_parameters_are_split_over_fsdp_and_batch_over_both():
    config = tiny.tiny()
    config.model.vision.width, config.model.vision.head_width = 128, 32
    mesh = meshes.make_mesh({"data": 2, "fsdp": 4, "tensor": 1})
    program = build.program(config, mesh=mesh, total_steps=10, warmup_steps=1)
    kernel = program.abstract_state.params["vision"]["blocks"]["mlp"]["up"]["kernel"]
    assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, None, "fsdp")
    mu = program.abstract_state.opt_state[1].mu["vision"]["blocks"]["mlp"]["up"]["kernel"]
    assert mu.sharding == kernel.sharding
    image = program.abstract_batch["image"]
    assert image.sharding.shard_shape(image.shape)[0] == config.batch_size // 8


def test_logit_scale_is_clamped_at_100():
    config = tiny.tiny(total="3 steps")
    config.optimizer.learning_rate = 10.0
    mesh = meshes.make_mesh({"data": 1, "fsdp": 8, "tensor": 1})
    program = build.program(config, mesh=mesh, total_steps=3, warmup_steps=0)
    state = jax.jit(program.init, out_shardings=program.out_shardings[0])(jax.random.key(1))
    batch = sharding.to_device(make_batch(config), mesh=mesh, batch_size=config.batch_size)
    step = jax.jit(program.step, out_shardings=program.out_shardings)
    scales = []
    for _ in range(3):
        state, metrics = step(state, batch)
        scales.append(float(metrics["train/logit_scale"]))
    assert float(jnp.exp(state.params["logit_scale"])) <= 100.001
    assert max(scales) <= 100.001
    assert scales[0] == pytest.approx(1 / 0.07, rel=1e-5)


def test_records_hash_sees_order_and_content():
    ids = jnp.arange(64, dtype=jnp.uint32)
    first = int(records_hash(ids))
    assert first == int(jax.jit(records_hash)(ids))
    assert first != int(records_hash(ids[::-1]))
    assert first != int(records_hash(ids.at[3].set(99)))


@pytest.mark.parametrize("name", ["softmax_gather", "softmax_ring", "sigmoid_ring"])
def test_micro_batches_change_nothing(name):
    """One loss over the whole batch: the gradients, of scale and bias too, are the plain step's."""
    found = {}
    mesh = meshes.make_mesh({"data": 2, "fsdp": 4, "tensor": 1})
    for count in (1, 4):
        config = tiny.tiny(batch_size=64, micro_batches=count)
        config.loss.name = name
        config.model.logit_bias = name == "sigmoid_ring"
        program = build.program(config, mesh=mesh, total_steps=10, warmup_steps=1)
        state = jax.jit(program.init, out_shardings=program.out_shardings[0])(jax.random.key(1))
        batch = sharding.to_device(make_batch(config), mesh=mesh, batch_size=64)
        new, metrics = jax.jit(program.step, out_shardings=program.out_shardings)(state, batch)
        found[count] = new.opt_state[1].mu, jax.device_get(metrics)
    for name, value in found[1][1].items():
        assert found[4][1][name] == pytest.approx(value, rel=1e-5), name
    for tower in ("vision", "text"):
        for moments, _ in found.values():
            moments[tower]["blocks"]["attention"]["key"].pop("bias")
    assert oracle.error(found[4][0], found[1][0]) < 1e-5
    assert float(np.abs(found[1][0]["logit_scale"])) > 1e-6


def draw(variables):
    """Random everywhere: a fresh ResNet's blocks do nothing."""
    rng = np.random.default_rng(3)

    def leaf(path, x):
        name = jax.tree_util.keystr(path)
        drawn = 0.3 * rng.normal(size=x.shape)
        kept = 1.0 if "scale']" in name or "var']" in name else 0.0
        return jnp.asarray(x if "logit" in name else kept + drawn * (1 - 0.5 * kept), x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, variables)


@pytest.mark.long
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_batch_norm_sees_all_devices_and_one_micro_batch(micro_batches):
    """Loss, gradient and running averages of one plain device that takes the batch in those parts.

    Micro-batch j is the j-th part of each device's rows.
    """
    config = tiny.tiny_resnet(batch_size=32, micro_batches=micro_batches)
    mesh = meshes.make_mesh({"data": 2, "fsdp": 4, "tensor": 1})
    program = build.program(config, mesh=mesh, total_steps=10, warmup_steps=1)
    fresh = jax.eval_shape(program.init, jax.random.key(0))
    variables = draw(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), fresh.variables))
    init = jax.jit(program.init, out_shardings=program.out_shardings[0])
    placed_variables = jax.device_put(variables, program.out_shardings[0].variables)
    state = init(jax.random.key(1)).replace(**placed_variables)
    batch = make_batch(config)
    placed = sharding.to_device(batch, mesh=mesh, batch_size=32)
    new, metrics = jax.jit(program.step, out_shardings=program.out_shardings)(state, placed)

    parts = np.arange(32).reshape(8, micro_batches, -1).swapaxes(0, 1).reshape(micro_batches, -1)
    module = clip.from_dict(config.model.to_dict())

    def loss(params):
        outs, all_stats = [], []
        for rows in parts:
            out, changed = module.apply(
                {**variables, "params": params},
                batch["image"][rows],
                batch["text"][rows],
                train=("vision", "text"),
                method="embed",
                mutable=["batch_stats"],
            )
            outs.append(out)
            all_stats.append(changed["batch_stats"])
        out = jax.tree.map(lambda *x: jnp.concatenate(x), *outs)
        scale = jnp.exp(params["logit_scale"])
        logits = scale * jnp.matmul(out["image_embed"], out["text_embed"].T, precision="highest")
        log_odds = (jax.nn.log_softmax(logits, axis=axis) for axis in (0, 1))
        value = -sum(jnp.diag(x).mean() for x in log_odds) / 2
        return value, jax.tree.map(lambda *x: sum(x) / len(x), *all_stats)

    (value, stats), wanted = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    assert float(metrics["train/loss"]) == pytest.approx(float(value), rel=1e-5)
    for found, exact in zip(jax.tree.leaves(new.batch_stats), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)
    found = jax.tree.map(
        lambda m: np.asarray(m) / (1 - config.optimizer.beta1), new.opt_state[1].mu
    )
    for tree in (found, wanted):
        tree["text"]["blocks"]["attention"]["key"].pop("bias")
        tree["vision"]["pool"]["attention"]["key"].pop("bias")
    assert oracle.error(found, wanted) < 1e-4


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_frozen_tower_has_no_gradient_no_state_and_keeps_every_bit(micro_batches):
    products, states = {}, {}
    mesh = meshes.make_mesh({"data": 1, "fsdp": 2, "tensor": 1}, devices=jax.devices()[:2])
    for rate in (1.0, 0.0):
        config = tiny.tiny_resnet(micro_batches=micro_batches)
        config.optimizer.learning_rate_factors = ((r"vision/.*", rate), (r".*", 1.0))
        program = build.program(config, mesh=mesh, total_steps=10, warmup_steps=1)
        text = str(jax.make_jaxpr(program.step)(program.abstract_state, program.abstract_batch))
        products[rate] = text.count("conv_general_dilated[")
        states[rate] = program.abstract_state.opt_state
    once = 3 + 2 * 4  # stem; two blocks with shortcuts
    assert products[0.0] == once * (2 if micro_batches > 1 else 1)  # made again, for the compiler
    assert products[1.0] >= 3 * once - 1  # pixels need no gradient
    assert len(jax.tree.leaves(states[0.0])) < len(jax.tree.leaves(states[1.0])) / 2

    init = jax.jit(program.init, out_shardings=program.out_shardings[0])
    state = init(jax.random.key(1))
    bias = state.params["vision"]["stem_1"]["norm"]["bias"]
    state.params["vision"]["stem_1"]["norm"]["bias"] = jnp.full_like(bias, -0.0)
    batch = sharding.to_device(make_batch(config), mesh=mesh, batch_size=config.batch_size)
    new, _ = jax.jit(program.step, out_shardings=program.out_shardings)(state, batch)
    for before, after in zip(
        jax.tree.leaves((state.params["vision"], state.batch_stats)),
        jax.tree.leaves((new.params["vision"], new.batch_stats)),
        strict=True,
    ):
        assert np.asarray(before).tobytes() == np.asarray(after).tobytes()
    moved = (
        new.params["text"]["projection"]["kernel"] - state.params["text"]["projection"]["kernel"]
    )
    assert float(jnp.max(jnp.abs(moved))) > 0


@pytest.mark.parametrize("duplicates", ["positive", "mask"])
def test_duplicates_of_a_batch_take_part_as_asked(duplicates):
    """Captions 0, 5 and 9 are equal and images 1 and 14, over devices and micro-batches."""
    config = tiny.tiny()
    config.loss.duplicates, config.micro_batches = duplicates, 2
    batch = make_batch(config)
    rows = np.arange(config.batch_size, dtype=np.uint32)
    batch |= {"image_id": rows.copy(), "text_id": rows.copy()}
    batch["text_id"][[5, 9]] = 0
    batch["image_id"][14] = 1
    mesh = meshes.make_mesh({"data": 2, "fsdp": 4, "tensor": 1})
    program = build.program(config, mesh=mesh, total_steps=10, warmup_steps=1)
    state = jax.jit(program.init, out_shardings=program.out_shardings[0])(jax.random.key(1))
    placed = sharding.to_device(batch, mesh=mesh, batch_size=config.batch_size)
    _, metrics = jax.jit(program.step, out_shardings=program.out_shardings)(state, placed)

    module = clip.from_dict(config.model.to_dict())
    params = jax.device_get(state.params)
    outputs = module.apply({"params": params}, batch["image"], batch["text"])
    cosines = np.float64(outputs["image_embed"]) @ np.float64(outputs["text_embed"]).T
    logits = float(outputs["logit_scale"]) * cosines
    same = (batch["image_id"][:, None] == batch["image_id"]) | (
        batch["text_id"][:, None] == batch["text_id"]
    )
    positive = same if duplicates == "positive" else np.eye(len(rows), dtype=bool)
    kept = np.where(positive | ~same, logits, -np.inf)

    def cross_entropy(kept, positive):
        log_total = np.log(np.sum(np.exp(kept), axis=1))
        return np.mean(log_total - np.sum(np.where(positive, kept, 0), 1) / positive.sum(1))

    wanted = (cross_entropy(kept, positive) + cross_entropy(kept.T, positive.T)) / 2
    assert float(metrics["train/loss"]) == pytest.approx(wanted, rel=1e-5)
