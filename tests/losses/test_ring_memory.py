"""What the TPU compiler says of the ring losses: memory that stays small, transfers that overlap.

Compiles the loss alone, value and gradient, for slices that are not there. Needs libtpu.
"""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clipjax import losses

pytest.importorskip("libtpu")
pytestmark = pytest.mark.tpu_compiler

WIDTH = 768
MIB = 2**20


@pytest.fixture(autouse=True)
def no_tpu_here(monkeypatch):
    """What libtpu would otherwise ask the machine it thinks it is on."""
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    monkeypatch.setenv(
        "ALLOW_MULTIPLE_LIBTPU_LOAD", os.environ.get("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    )


def compile_loss(name, *, topology, batch_size):
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    mesh = Mesh(np.array(devices).reshape(1, -1), ("data", "fsdp"))
    axes = mesh.axis_names

    def loss(image, text, scale, bias):
        return losses.get(name)(
            image, text, logit_scale=scale, logit_bias=bias, mesh=mesh, batch_axes=axes
        )

    embed = jax.ShapeDtypeStruct(
        (batch_size, WIDTH), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec(axes))
    )
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    step = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))
    return step.lower(embed, embed, scalar, scalar).compile()


def check_overlap(text):
    """In each ring, embeddings leave before the loop over blocks and are awaited after it."""
    rings = 0
    for computation in re.split(r"^}", text, flags=re.MULTILINE):
        lines = computation.splitlines()

        def places(pattern, lines=lines):
            return [i for i, line in enumerate(lines) if re.search(pattern, line)]

        starts = places(rf",{WIDTH}\].* collective-permute-start\(")
        if not starts:
            continue
        dones = places(rf",{WIDTH}\]\S* collective-permute-done\(")
        loops = places(r" while\(")
        assert len(starts) == len(dones) == len(loops) == 1
        assert starts[0] < loops[0] < dones[0]
        rings += 1
    return rings


@pytest.mark.parametrize(
    ("topology", "batch_size", "limit"),
    [("v5e:4x4", 32_768, 8), ("v5e:4x4", 131_072, 32), ("v5e:16x16", 1_048_576, 16)],
)
@pytest.mark.parametrize("name", ["softmax_ring", "sigmoid_ring"])
def test_memory_per_chip_and_overlap(name, topology, batch_size, limit):
    compiled = compile_loss(name, topology=topology, batch_size=batch_size)
    temporaries = compiled.memory_analysis().temp_size_in_bytes / MIB
    print(f"{name} {topology} {batch_size}: {temporaries:.2f} MiB of temporaries per chip")
    assert temporaries <= limit
    assert check_overlap(compiled.as_text()) == 3  # forward, images, texts


def test_gather_form_is_quadratic():
    small, large = (
        compile_loss("softmax_gather", topology="v5e:4x4", batch_size=size).memory_analysis()
        for size in (8_192, 32_768)
    )
    assert large.temp_size_in_bytes > 8 * small.temp_size_in_bytes
