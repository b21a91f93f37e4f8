"""The device mesh: axes `data` × `fsdp` × `tensor`, the batch split over the first two."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from clipjax.common.exits import ConfigError
from clipjax.parallel import AXES, BATCH_AXES


def axis_sizes(sizes: Mapping[str, int], *, devices: int, num_slices: int = 1) -> dict[str, int]:
    """The mesh shape with its -1 filled in.

    Where `data` is -1, `fsdp` is the most that is wanted: it becomes the largest divisor that it
    has in common with the devices of a slice, so that one config runs on slices of any size.

    Raises:
      ConfigError: the sizes do not multiply to the number of devices.
    """
    shape = {axis: sizes[axis] for axis in AXES}
    if shape["data"] == -1 and min(shape["fsdp"], shape["tensor"]) > 0:
        groups, left = divmod(devices, shape["tensor"] * num_slices)
        shape["fsdp"] = shape["fsdp"] if left else math.gcd(shape["fsdp"], groups)
    known = math.prod(size for size in shape.values() if size != -1)
    wild = [axis for axis, size in shape.items() if size == -1]
    if wild and devices % known == 0:
        shape[wild[0]] = devices // known
    if math.prod(shape.values()) != devices:
        asked = " × ".join(f"{axis}={size}" for axis, size in sizes.items())
        counted = "1 device" if devices == 1 else f"{devices:,} devices"
        raise ConfigError(
            f"config.mesh: {asked} does not make {counted}; give sizes whose product is {devices},"
            f" such as --config.mesh.data=1 --config.mesh.fsdp={devices} --config.mesh.tensor=1"
        )
    return shape


def make_mesh(
    sizes: Mapping[str, int], *, num_slices: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh over all devices (or those given), nearest neighbours together.

    Args:
      sizes: devices by axis; at most one is -1.
      num_slices: TPU slices; they split the `data` axis, so that only gradients, embeddings and
        scalars cross the data-centre network.
      devices: default all devices of all processes.

    Raises:
      ConfigError: sizes, slices and devices do not fit.
    """
    devices = list(devices if devices is not None else jax.devices())
    shape = axis_sizes(sizes, devices=len(devices), num_slices=num_slices)
    from jax.experimental import mesh_utils

    # An axis may take part of a physical one: 16 × 16 on the 4 × 8 × 8 chips of a v4 slice.
    split = {"allow_split_physical_axes": True}
    if num_slices == 1:
        grid = mesh_utils.create_device_mesh(tuple(shape.values()), devices=devices, **split)
        return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)
    if shape["data"] % num_slices:
        raise ConfigError(
            f"config.mesh.data={shape['data']}: is not a multiple of config.num_slices={num_slices}"
        )
    within = (shape["data"] // num_slices, shape["fsdp"], shape["tensor"])
    grid = mesh_utils.create_hybrid_device_mesh(
        within, (num_slices, 1, 1), devices=devices, **split
    )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts the batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch(batch_size: int, *, mesh: Mesh, where: str) -> None:
    """Raise ConfigError unless the global batch splits evenly, naming the nearest that does."""
    shards = batch_shards(mesh)
    if batch_size % shards:
        below = batch_size - batch_size % shards
        raise ConfigError(
            f"{where}={batch_size}: does not divide over {shards} devices (data ×"
            f" fsdp); try {below or shards}"
        )
