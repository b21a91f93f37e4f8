"""Tables of a run's summary: its parameters by module and how they are split, and the plan row."""

import collections
import math
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clipjax.common import trees
from clipjax.parallel import accelerators
from clipjax.planning import compile_memory
from clipjax.run.stage import OpenStage

HEADER = ("module", "parameters", "", "on each device", "split")


def parameters(params: Any) -> str:
    """A table of abstract parameters with shardings, one row a module, blocks of a tower together.

    "split" counts the bytes by mesh axes: "fsdp 98 %, whole 2 %".
    """
    modules: dict[str, list[Any]] = collections.defaultdict(list)
    for name, leaf in trees.named_leaves(params):
        modules[module(name)].append(leaf)
    leaves = jax.tree.leaves(params)
    total = sum(math.prod(leaf.shape) for leaf in leaves)
    rows = [HEADER, *(_row(name, group, total=total) for name, group in modules.items())]
    rows.append(_row("all", leaves, total=total))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in (0, 4) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def module(name: str) -> str:
    """ "vision/blocks/attention" of "vision/block_3/attention/out/kernel" and of
    "vision/blocks/attention/out/kernel"; "vision/ln_pre" of "vision/ln_pre/scale"."""
    parts = re.sub(r"/block_\d+/", "/blocks/", name).split("/")
    return "/".join(parts[:3] if "blocks" in parts[:2] else parts[:2])


def _row(name: str, leaves: list[Any], *, total: int) -> tuple[str, ...]:
    count = sum(math.prod(leaf.shape) for leaf in leaves)
    split: dict[str, int] = collections.Counter()
    for leaf in leaves:
        axes = [axis for part in leaf.sharding.spec if part for axis in np.atleast_1d(part)]
        used = [str(axis) for axis in axes if leaf.sharding.mesh.shape[axis] > 1]
        split["+".join(used) or "whole"] += math.prod(leaf.shape) * leaf.dtype.itemsize
    whole = sum(split.values())
    shares = ", ".join(
        axes if size == whole else f"{axes} {size / whole:.0%}"
        for axes, size in sorted(split.items(), key=lambda item: -item[1])
    )
    return (name, f"{count:,}", f"{count / total:.1%}", as_bytes(local_bytes(leaves)), shares)


def plan(opened: OpenStage, compiled: jax.stages.Compiled) -> str:
    """What the compiled step needs of each device: memory by kind, and time at the peak rate."""
    sizes = compiled.memory_analysis()
    temporaries = getattr(sizes, "temp_size_in_bytes", 0)
    mesh, program = opened.mesh, opened.program
    device = mesh.local_devices[0]
    kind = accelerators.of_kind(device.device_kind)
    limit = (device.memory_stats() or {}).get("bytes_limit") or (kind.hbm_bytes if kind else 0)
    of = f" of {as_bytes(limit)}" if limit else ""
    work = opened.flops_per_pair * opened.config.batch_size / mesh.size
    line = (
        f"plan        {as_bytes(compile_memory.peak_bytes(sizes))}{of} on each device: state"
        f" {as_bytes(local_bytes(program.abstract_state))}, batch"
        f" {as_bytes(local_bytes(program.abstract_batch))}, temporaries"
        f" {as_bytes(temporaries)}; {work / 1e9:,.2f} GFLOP a step"
    )
    return line + (f", {work / kind.peak_flops:.3f} s at the peak rate" if kind else "")


def local_bytes(tree: Any) -> int:
    """Bytes of a tree of abstract arrays with shardings on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )


def as_bytes(count: float) -> str:
    """ "1.5 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def devices(mesh: Mesh) -> str:
    """The mesh's devices by process, like ones together: "processes 0-63: 4 × TPU v5 lite, 15.7
    GiB"; memory is of this process's devices, which alone can be asked."""
    by_process: dict[int, list[Any]] = collections.defaultdict(list)
    for device in mesh.devices.flat:
        by_process[device.process_index].append(device)
    limit = (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")
    memory = f", {as_bytes(limit)} each" if limit else ""
    groups: dict[str, list[int]] = collections.defaultdict(list)
    for process, own in sorted(by_process.items()):
        kinds = collections.Counter(device.device_kind for device in own)
        groups[" + ".join(f"{n} × {kind}" for kind, n in kinds.items())].append(process)
    return "; ".join(f"{_ranges(who)}: {what}{memory}" for what, who in groups.items())


def _ranges(numbers: list[int]) -> str:
    """ "process 3", "processes 0-63"."""
    if len(numbers) == 1:
        return f"process {numbers[0]}"
    dense = numbers[-1] - numbers[0] + 1 == len(numbers)
    listed = f"{numbers[0]}-{numbers[-1]}" if dense else ", ".join(map(str, numbers))
    return f"processes {listed}"
