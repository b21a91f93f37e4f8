"""Mesh shapes, sharding rules, and which rows a process holds."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from clipjax.common import trees
from clipjax.common.exits import ConfigError
from clipjax.parallel import mesh as meshes
from clipjax.parallel import sharding


def sizes(data=1, fsdp=-1, tensor=1):
    return {"data": data, "fsdp": fsdp, "tensor": tensor}


def test_one_axis_takes_what_remains():
    assert meshes.axis_sizes(sizes(data=2), devices=8) == sizes(2, 4, 1)
    assert meshes.axis_sizes(sizes(data=-1, fsdp=4), devices=8) == sizes(2, 4, 1)


@pytest.mark.parametrize("devices", [1, 2, 4, 6, 8, 16, 32, 64, 256, 2048])
@pytest.mark.parametrize("num_slices", [1, 2])
def test_fsdp_is_at_most_what_is_asked_where_data_takes_the_rest(devices, num_slices):
    shape = meshes.axis_sizes(
        sizes(data=-1, fsdp=16), devices=devices * num_slices, num_slices=num_slices
    )
    wanted = {1: 1, 2: 2, 4: 4, 6: 2, 8: 8}.get(devices, 16)
    assert shape == sizes(devices * num_slices // wanted, wanted, 1)
    assert shape["data"] % num_slices == 0


def test_tensor_is_never_changed():
    assert meshes.axis_sizes(sizes(-1, 16, 2), devices=8) == sizes(1, 4, 2)
    with pytest.raises(ConfigError, match="tensor=3 does not make 8 devices"):
        meshes.axis_sizes(sizes(-1, 16, 3), devices=8)


@pytest.mark.parametrize("wrong", [sizes(data=3), sizes(2, 2, 1), sizes(16), sizes(1, 16, 1)])
def test_a_mesh_that_does_not_fit_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"config\.mesh: data=.* does not make 8 devices"):
        meshes.axis_sizes(wrong, devices=8)


def test_a_batch_that_does_not_divide_is_refused_with_one_that_does():
    mesh = meshes.make_mesh(sizes())
    with pytest.raises(ConfigError, match=r"config\.batch_size=20: .* 8 devices .*; try 16"):
        meshes.check_batch(20, mesh=mesh, where="config.batch_size")


def spec(name, shape, mesh=None, rules=()):
    mesh = mesh or meshes.make_mesh(sizes(1, 4, 2))
    return sharding.spec(name, shape=shape, mesh=mesh, rules=(*rules, *sharding.RULES))


def test_rules():
    # Scanned layers keep their leading dimension whole, although 4 divides it.
    assert spec("vision/blocks/mlp/up/kernel", (512, 64, 256)) == P(None, "fsdp", "tensor")
    assert spec("vision/blocks/attention/query/kernel", (12, 256, 4, 64)) == P(
        None, "fsdp", "tensor", None
    )
    assert spec("vision/block_3/attention/out/kernel", (4, 64, 256)) == P("tensor", None, "fsdp")
    assert spec("logit_scale", ()) == P()
    assert spec("text/token_embedding/embedding", (49408, 510)) == P("fsdp", None)
    small = spec("vision/ln_pre/scale", (128,))
    assert small == P(None), "small leaves stay whole"
    own = ((".*/embedding", "shard(1, tensor)"),)
    assert spec("text/token_embedding/embedding", (49408, 512), rules=own) == P(None, "tensor")


@pytest.mark.parametrize("rule", ["fdsp", "shard(9, tensor)", "shard(0, rows)"])
def test_a_rule_that_cannot_be_read_is_refused(rule):
    with pytest.raises(ConfigError, match="is no rule"):
        spec("a/kernel", (256, 256), rules=((".*", rule),))


def test_a_parameter_that_no_rule_covers_is_refused():
    with pytest.raises(ConfigError, match='no rule matches parameter "a/kernel"'):
        mesh = meshes.make_mesh(sizes())
        sharding.spec("a/kernel", shape=(8,), mesh=mesh, rules=(("b/.*", "fsdp"),))


def tree():
    """A parameter and its moment, as a training state has them."""
    leaf = jax.ShapeDtypeStruct((256, 256), np.float32)
    return {"params": {"text": {"w": leaf}}, "opt_state": [{"mu": {"text": {"w": leaf}}}]}


@pytest.mark.parametrize("pattern", [r"text/.*", r".*/w", r"params/text/w|opt_state/.*"])
def test_a_rule_speaks_of_a_parameter_or_of_an_array(pattern):
    mesh = meshes.make_mesh(sizes(1, 4, 2))
    placed = sharding.shardings(tree(), mesh=mesh, rules=((pattern, "shard(1, tensor)"),))
    assert [leaf.spec for leaf in jax.tree.leaves(placed)] == [P(None, "tensor")] * 2


def test_a_rule_that_matches_nothing_is_refused():
    mesh = meshes.make_mesh(sizes())
    with pytest.raises(ConfigError, match=r"sharding_rules: 'txet/\.\*' matches .*\"text/\.\*\""):
        sharding.shardings(tree(), mesh=mesh, rules=(("txet/.*", "fsdp"),))


def test_rows_go_to_the_device_and_come_back_in_order():
    mesh = meshes.make_mesh(sizes(2, 4, 1))
    rows = sharding.local_rows(32, mesh=mesh)
    np.testing.assert_array_equal(rows, np.arange(32))
    placed = sharding.to_device({"x": rows}, mesh=mesh, batch_size=32)["x"]
    np.testing.assert_array_equal(np.asarray(placed), np.arange(32))
    assert placed.sharding.shard_shape(placed.shape) == (4,)


def test_rows_follow_the_mesh_and_not_the_device_numbers():
    devices = jax.devices()[::-1]
    mesh = meshes.make_mesh(sizes(), devices=devices)
    placed = sharding.to_device({"x": np.arange(16)}, mesh=mesh, batch_size=16)["x"]
    np.testing.assert_array_equal(np.asarray(placed), np.arange(16))


def test_unsharded_fraction():
    mesh = meshes.make_mesh(sizes())
    shapes = {"a": (1024, 1024), "b": (7,)}
    tree = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    found = sharding.shardings(tree, mesh=mesh)
    assert sharding.unsharded_fraction(tree, found) == pytest.approx(7 / (1024 * 1024 + 7))


def test_state_of_other_dimensions_than_its_parameter_follows_no_rule_of_it():
    mesh = meshes.make_mesh({"data": 1, "fsdp": 4, "tensor": 2})
    kernel = "text/block_0/mlp/up/kernel"
    shapes = {
        f"params/{kernel}": (256, 1024),
        f"opt_state/0/mu/{kernel}": (256, 1024),
        f"opt_state/0/v_row/{kernel}": (1,),
        f"opt_state/0/v_col/{kernel}": (65_536,),
        "params/text/block_0/attention/key/bias": (2, 64),
        "opt_state/0/v_row/text/block_0/attention/key/bias": (1,),
    }
    tree = trees.unflatten({name: jax.ShapeDtypeStruct(s, "float32") for name, s in shapes.items()})
    found = {name: s.spec for name, s in trees.named_leaves(sharding.shardings(tree, mesh=mesh))}
    assert found[f"params/{kernel}"] == found[f"opt_state/0/mu/{kernel}"] == P("fsdp", "tensor")
    assert found[f"opt_state/0/v_row/{kernel}"] == P(None)
    assert found[f"opt_state/0/v_col/{kernel}"] == P("fsdp")
    assert found["opt_state/0/v_row/text/block_0/attention/key/bias"] == P(None)
