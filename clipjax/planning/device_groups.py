"""Which devices take part in a transfer together, from the text of an HLO instruction."""

import math
import re

import numpy as np


def device_groups(attributes: str) -> list[list[int]]:
    """Groups of device numbers, from any of the ways HLO writes them.

    {{0,1},{2,3}}; [2,4]<=[8] and [4,2]<=[2,4]T(1,0), an iota reshaped and perhaps transposed;
    mesh['a'=2,'b'=4] {'b'}, along axes of a mesh; pairs {from, to} of a permutation.
    """
    explicit = re.search(
        r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d, ]*\},? ?)+)\}", attributes
    )
    if explicit:
        groups = re.findall(r"\{([\d, ]*)\}", explicit[1])
        return [[int(device) for device in group.split(",") if device.strip()] for group in groups]
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if iota:
        shape, source, order = (_numbers(text) for text in iota.groups())
        devices = np.arange(math.prod(source)).reshape(source)
        return (devices.transpose(order) if order else devices).reshape(shape).tolist()
    mesh = re.search(r"replica_groups=(?:@\w+ )?mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes)
    if mesh:
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        along = re.findall(r"'(\w+)'", mesh[2])
        devices = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
        names = list(sizes)
        order = [names.index(name) for name in names if name not in along]
        order += [names.index(name) for name in along]
        group = math.prod(sizes[name] for name in along)
        return devices.transpose(order).reshape(-1, group).tolist()
    return []


def _numbers(text: str | None) -> list[int]:
    return [int(number) for number in text.split(",")] if text else []
