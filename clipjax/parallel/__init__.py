"""Devices, meshes and the programs that run on them.

The names of axes and of sharding rules are here so that configs are checked without jax.
"""

import re

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
PLACEMENT = re.compile(rf"replicate|fsdp|shard\((-?\d+), *({'|'.join(AXES)})\)")  # see `sharding`
