"""The way round the devices that the ring of `ring.py` takes: on a TPU, from chip to next chip.

Any order of the devices is right, but the TPU compiler (libtpu 0.0.52) overlaps a transfer with
computation only if every chip sends to a chip it has a link with; the order of the mesh has
jumps from the end of one row of chips to the start of the next.
"""

import numpy as np
from jax.sharding import Mesh


def neighbours(mesh: Mesh, axes: tuple[str, ...]) -> list[tuple[int, int]]:
    """Pairs (from, to) of places along the flattened `axes` that make one ring of them all.

    Slices of a multi-slice mesh are taken one after the other. Devices that do not say where
    they are (CPU, GPU) keep the order of the mesh.
    """
    places = [mesh.axis_names.index(axis) for axis in axes]
    grid = np.moveaxis(mesh.devices, places, range(len(axes)))
    count = int(np.prod(grid.shape[: len(axes)]))
    devices = grid.reshape(count, -1)[:, 0]
    slices: dict[int, list[int]] = {}
    for i, device in enumerate(devices):
        slices.setdefault(getattr(device, "slice_index", None) or 0, []).append(i)
    order = []
    for members in slices.values():
        coords = [getattr(devices[i], "coords", None) for i in members]
        ring = members if None in coords else [members[i] for i in closed_walk(np.array(coords))]
        order += ring
    return list(zip(order, order[1:] + order[:1], strict=True))


def closed_walk(coords: np.ndarray) -> list[int]:
    """An order of the points coords [n, dimensions] in which each is next to the one before.

    The points are to fill a box; the last is next to the first if some side of it, 2 or longer,
    leaves an even number of points across. Where there is no such walk, the given order.
    """
    count = len(coords)
    ranks = [np.unique(column, return_inverse=True)[1] for column in coords.T]
    sizes = [int(rank.max()) + 1 for rank in ranks]
    at = {place: i for i, place in enumerate(zip(*ranks, strict=True))}
    if len(at) != count or np.prod(sizes) != count:
        return list(range(count))
    for side, size in enumerate(sizes):
        across = snake([s for other, s in enumerate(sizes) if other != side])
        if size > 1 and len(across) > 1 and len(across) % 2 == 0:
            break
    else:
        return [at[place] for place in snake(sizes)]
    # Out along one edge, back in sweeps over all the rest.
    walk = [(0, place) for place in across]
    for i, place in enumerate(reversed(across)):
        sweep = range(1, size) if i % 2 == 0 else range(size - 1, 0, -1)
        walk += [(x, place) for x in sweep]
    return [at[(*place[:side], x, *place[side:])] for x, place in walk]


def snake(sizes: list[int]) -> list[tuple[int, ...]]:
    """All places of a box, each next to the one before."""
    if not sizes:
        return [()]
    inner = snake(sizes[1:])
    return [
        (x, *place) for x in range(sizes[0]) for place in (inner if x % 2 == 0 else inner[::-1])
    ]
