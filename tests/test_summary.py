"""What a run says before it starts about how its state lies on the devices."""

import jax
import numpy as np
import pytest
import tiny

from clipjax import build, summary
from clipjax.parallel import mesh as meshes


class Source:
    name = "scenes"

    def __len__(self):
        return 100


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
    program = build.program(config, mesh=mesh, total_steps=6, warmup_steps=2)
    text = summary.describe(
        config,
        mesh=mesh,
        state=program.abstract_state,
        horizon=build.horizon(config, epoch_examples=100),
        source=Source(),
        progress={"data/epochs": 1.0},
        start=0,
        workdir="somewhere",
    )
    warnings = [line for line in text.splitlines() if line.startswith("warning")]
    assert len(warnings) == len(told)
    assert all(part in line for part, line in zip(told, warnings, strict=True)), warnings
