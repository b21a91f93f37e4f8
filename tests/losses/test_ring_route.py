"""The ring's way round the devices."""

import itertools
import types

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from clipjax.losses import ring_route


def box(sizes, *, seed=0):
    points = np.array(list(itertools.product(*map(range, sizes))))
    return np.random.default_rng(seed).permutation(points)


def steps(coords, order):
    walk = np.append(coords[order], coords[order[:1]], axis=0)
    return np.abs(np.diff(walk, axis=0)).sum(axis=1)


@pytest.mark.parametrize(
    "sizes", [(2, 2, 1), (4, 4, 1), (8, 16, 1), (16, 16, 1), (4, 4, 8), (2, 3, 4), (3, 2, 1)]
)
def test_walk_goes_from_chip_to_next_chip_and_home(sizes):
    coords = 2 + 3 * box(sizes)  # places in a bigger machine, chips in between belong to others
    order = ring_route.closed_walk(coords)
    assert sorted(order) == list(range(len(coords)))
    assert (steps(coords, order) == 3).all()


def test_line_and_odd_boxes_walk_without_coming_home():
    for sizes in [(8, 1, 1), (3, 3, 1)]:
        coords = box(sizes)
        order = ring_route.closed_walk(coords)
        assert sorted(order) == list(range(len(coords)))
        assert (steps(coords, order)[:-1] == 1).all()


def test_what_is_no_box_keeps_its_order():
    two_cores_a_chip = np.repeat(box((2, 2, 1)), 2, axis=0)
    assert ring_route.closed_walk(two_cores_a_chip) == list(range(8))
    assert ring_route.closed_walk(box((2, 2, 1))[:3]) == [0, 1, 2]
    assert ring_route.closed_walk(box((1, 1, 1))) == [0]


def devices(sizes, *, slices=1):
    return [
        types.SimpleNamespace(coords=tuple(map(int, place)), slice_index=s)
        for s in range(slices)
        for place in box(sizes, seed=s)
    ]


def test_pairs_are_one_ring_of_all_shards():
    grid = np.array(devices((2, 4, 1), slices=2), dtype=object).reshape(2, 4, 2)
    mesh = types.SimpleNamespace(axis_names=("data", "fsdp", "tensor"), devices=grid)
    for axes in [("data", "fsdp"), ("fsdp", "data"), ("data", "fsdp", "tensor"), ("fsdp",)]:
        pairs = dict(ring_route.neighbours(mesh, axes))
        seen, place = [], 0
        for _ in pairs:
            seen.append(place)
            place = pairs[place]
        assert place == 0 and sorted(seen) == list(range(len(pairs)))
    # Slices one after the other: two steps between slices in all.
    pairs = ring_route.neighbours(mesh, ("data", "fsdp", "tensor"))
    assert sum(a // 8 != b // 8 for a, b in pairs) == 2


def test_devices_without_places_keep_the_order_of_the_mesh():
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("data", "fsdp"))
    assert ring_route.neighbours(mesh, ("data", "fsdp")) == [(0, 1), (1, 2), (2, 3), (3, 0)]
