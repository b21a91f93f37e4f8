"""What a run says before it starts about how its state lies on the devices."""

import types

import jax
import numpy as np
import pytest

from clipjax import config
from clipjax.build import data as build_data
from clipjax.build import program as build
from clipjax.config import stages
from clipjax.data.mixture import MixtureOrder
from clipjax.data.order import GlobalOrder
from clipjax.data.source import Source
from clipjax.parallel import mesh as meshes
from clipjax.run import summary
from clipjax.run.stage import OpenStage
from tests import tiny

STEPS = {"total_steps": 6, "warmup_steps": 2}


class Scenes(Source):
    name = "scenes"

    def __len__(self):
        return 100


def opened(config, mesh):
    """The only stage of a run of this config, open."""
    (stage,) = stages.plan(config, epoch_examples=100)
    return OpenStage(stage, mesh=mesh, source=Scenes(), tokenizer=None, schedule=STEPS)


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"data": 8, "fsdp": 1, "tensor": 1}, []),
        ({"data": 2, "fsdp": 2, "tensor": 2}, ["of the state is on every device"]),
        ({"data": 2, "fsdp": 1, "tensor": 3}, ["tensor=3 splits no parameter"]),
        (
            {"data": 1, "fsdp": 7, "tensor": 1},
            ["100.0% of the state is on every device", "fsdp=7 splits no parameter"],
        ),
    ],
)
def test_what_is_not_split_is_told(sizes, told):
    config = tiny.tiny()
    devices = jax.devices()[: int(np.prod(list(sizes.values())))]
    mesh = meshes.make_mesh(sizes, devices=devices)
    text = summary.describe(
        opened(config, mesh), evaluators={}, total=6, start=0, workdir="somewhere"
    )
    warnings = [line for line in text.splitlines() if line.startswith("warning")]
    assert len(warnings) == len(told)
    assert all(part in line for part, line in zip(told, warnings, strict=True)), warnings


def test_where_weights_come_from_and_what_is_frozen():
    config = tiny.tiny()
    params = build.program(
        config, mesh=meshes.make_mesh({"data": 1, "fsdp": 8, "tensor": 1}), **STEPS
    ).abstract_state.params
    assert summary.weights_line(config, params, start=0) == "weights     random, of seed 0"
    config.init.weights, config.init.towers = "runs/a", ("vision",)
    told = summary.weights_line(config, params, start=0)
    assert told == "weights     from runs/a (vision)"
    config.optimizer.learning_rate_factors = ((r"vision/.*", 0.0), (r".*", 1.0))
    told = summary.weights_line(config, params, start=7)
    assert told.startswith("weights     from the checkpoint of step 7; frozen: vision/*, ")
    vision = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params["vision"]))
    assert told.endswith(f" {vision:,} parameters")
    config.optimizer.learning_rate_factors = ((r"text/(token|pos).*", 0.0), (r".*", 1.0))
    told = summary.weights_line(config, params, start=0)
    assert "frozen: text/position_embedding, text/token_embedding, 13,056 parameters" in told


def test_tables_of_parameters_and_memory():
    config = tiny.tiny()
    sizes = {"data": 2, "fsdp": 2, "tensor": 2}
    mesh = meshes.make_mesh(sizes)
    rules = ((r".*/mlp/up/kernel", "shard(-1, tensor) + fsdp"), (r".*/embedding", "shard(0, fsdp)"))
    config.sharding_rules = rules
    tables = {}
    for scan in (True, False):
        config.model.scan = scan
        program = build.program(config, mesh=mesh, total_steps=6, warmup_steps=2)
        text = summary.parameters(program.abstract_state.params)
        tables[scan] = [line.split() for line in text.splitlines()]
    rows = {row[0]: row[1:] for row in tables[True]}
    assert tables[True] == tables[False], "the layout of the layers makes no other modules"
    assert rows["text/token_embedding"] == [
        "12,288",
        rows["text/token_embedding"][1],
        "24.0",
        "KiB",
        "fsdp",
    ]
    assert rows["text/blocks/mlp"][0] == "8,352" and "tensor" in " ".join(rows["text/blocks/mlp"])
    assert rows["logit_scale"][0] == "1" and rows["logit_scale"][-1] == "whole"
    counts = [int(row[0].replace(",", "")) for name, row in rows.items() if name != "module"]
    assert sum(counts[:-1]) == counts[-1] and rows["all"][1] == "100.0%"

    mesh = meshes.make_mesh(dict.fromkeys(sizes, 1), devices=jax.devices()[:1])
    stage = opened(config, mesh)
    line = summary.plan(stage, stage.compile())
    assert line.startswith("plan") and "temporaries" in line and "GFLOP a step" in line
    state = summary.local_bytes(stage.program.abstract_state)
    assert f"state {summary.as_bytes(state)}" in line


def test_devices_by_process():
    class Device:
        def __init__(self, process, kind="TPU v5 lite"):
            self.process_index, self.device_kind = process, kind

        def memory_stats(self):
            return {"bytes_limit": 2**34}

    class Mesh:
        devices = np.array([Device(index // 4) for index in range(16)])
        local_devices = devices[:4]

    assert summary.devices(Mesh()) == "processes 0-3: 4 × TPU v5 lite, 16.0 GiB each"
    Mesh.devices = np.array([Device(0), Device(1, "TPU v4"), Device(2)])
    told = summary.devices(Mesh())
    assert told.startswith("processes 0, 2: 1 × TPU v5 lite") and "process 1: 1 × TPU v4" in told


def notes(source_lengths: dict[str, int], **changes) -> list[str]:
    """What is said of batches of 16 from sources of these lengths, drawn from alike."""
    config = tiny.tiny(**changes)
    orders = {name: GlobalOrder(length, seed=0) for name, length in source_lengths.items()}
    order = next(iter(orders.values()))
    if len(orders) > 1:
        order = MixtureOrder({name: (orders[name], 1, source_lengths[name]) for name in orders})
    progress = {f"data/{key}": value for key, value in order.progress(config.batch_size).items()}
    return summary.batch_notes(config, per_batch=progress)


def test_a_batch_whose_loss_says_nothing_is_told():
    assert notes({"": 16}) == []
    (one,) = notes({"": 16}, batch_size=1)
    assert "accuracy is 100 %" in one and "raise config.batch_size" in one


def test_a_batch_larger_than_its_data_is_told_with_the_numbers():
    (all_of_it,) = notes({"": 10})
    assert "takes 16 pairs from the 10 records of config.data:" in all_of_it
    (part,) = notes({"web": 100, "own": 5})
    assert "takes 8 pairs from the 5 records of config.data.mixture.own:" in part
    masked = tiny.tiny().loss
    masked.duplicates = "mask"
    assert notes({"": 10}, loss=masked) == []


def test_an_evaluators_line_tells_its_folder_images_and_classes(tmp_path):
    for name in ("val/cat/a.png", "val/dog/b.png", "val/dog/c.png", "train/cat/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    c = config.defaults()
    c.evals.held_out = config.evaluator(
        "zero_shot", source="folder", path=str(tmp_path), split="val", max_examples=2
    )
    data = build_data.evaluation_source(c, "held_out")
    evaluators = {"held_out": types.SimpleNamespace(source=data)}
    assert summary._evaluator_lines(c, evaluators, every={"held_out": 7}) == [
        "evaluator   held_out: zero_shot on 2 records in 2 classes of folder,"
        f" {tmp_path}/val; every 7 steps"
    ]
