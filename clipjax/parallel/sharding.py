"""How parameters, optimizer state and batches lie on the mesh: (regex → rule) lists.

A rule is "replicate", "fsdp", "shard(dim, axis)", or several of the latter two joined by "+".
`fsdp` splits the largest dimension that is still free and divides; layers stacked for a scan
(`blocks/…`) never split their leading layer dimension. Dimensions may be counted from the end.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from clipjax.common import trees
from clipjax.common.exits import ConfigError
from clipjax.parallel import BATCH_AXES, PLACEMENT

# Attention is split by heads, the MLP by its inner width; each pair then needs one reduction.
RULES = (
    (r".*/attention/(query|key|value)/kernel", "shard(-2, tensor) + fsdp"),
    (r".*/attention/(query|key|value)/bias", "shard(-2, tensor)"),
    (r".*/attention/out/kernel", "shard(-3, tensor) + fsdp"),
    (r".*/mlp/up/kernel", "shard(-1, tensor) + fsdp"),
    (r".*/mlp/up/bias", "shard(-1, tensor)"),
    (r".*/mlp/down/kernel", "shard(-2, tensor) + fsdp"),
    (r".*", "fsdp"),
)
SMALL = 2**14  # elements, of one layer; below this a split costs more than it saves


def spec(*names: str, shape: tuple[int, ...], mesh: Mesh, rules: Sequence[tuple[str, str]]) -> P:
    """The PartitionSpec of one array by the first rule that matches one of its names.

    Raises:
      ConfigError: no rule matches, or the rule cannot be read.
    """
    rule = trees.first_match(*names, rules=rules, where="config.sharding_rules")
    axes: list[str | None] = [None] * len(shape)
    for part in (part.strip() for part in rule.split("+")):
        placed = PLACEMENT.fullmatch(part)
        if part == "replicate":
            continue
        elif part == "fsdp":
            _shard_largest(axes, name=names[0], shape=shape, size=mesh.shape["fsdp"])
        elif (
            placed and placed[2] in mesh.shape and int(placed[1]) in range(-len(shape), len(shape))
        ):
            if shape[int(placed[1])] % mesh.shape[placed[2]] == 0 and mesh.shape[placed[2]] > 1:
                axes[int(placed[1])] = placed[2]
        else:
            raise ConfigError(
                f'config.sharding_rules: "{part}" for {names[0]} {shape} is no rule; write'
                ' "replicate", "fsdp" or "shard(dim, axis)"'
            )
    return P(*axes)


def _shard_largest(axes: list[str | None], *, name: str, shape: tuple[int, ...], size: int) -> None:
    first = 1 if "/blocks/" in f"/{name}" and len(shape) > 1 else 0
    free = [d for d in range(first, len(shape)) if axes[d] is None and shape[d] % size == 0]
    if size > 1 and free and np.prod(shape[first:]) >= SMALL:
        axes[max(free, key=lambda d: shape[d])] = "fsdp"


def shardings(tree: Any, *, mesh: Mesh, rules: Sequence[tuple[str, str]] = ()) -> Any:
    """NamedShardings for a tree of arrays or shapes; optimizer state follows its parameters.

    But only in their shapes: the sums that Adafactor keeps of rows and columns have other
    dimensions than the rules speak of, and are split as `fsdp` says. A rule speaks of a parameter,
    "text/.*", or of an array by its whole name in the tree, "params/text/.*".

    Raises:
      ConfigError: a rule cannot be read, or matches nothing.
    """
    leaves = dict(trees.named_leaves(tree))
    shapes = {
        name.removeprefix("params/"): leaf.shape
        for name, leaf in leaves.items()
        if name.startswith("params/")
    }
    patterns = [pattern for pattern, _ in rules]
    trees.check_matches(patterns, names=[*shapes, *leaves], where="config.sharding_rules")
    rules = (*rules, *RULES)

    def place(name: str, leaf: Any) -> NamedSharding:
        parts = name.split("/")
        ends = ("/".join(parts[i:]) for i in range(len(parts)))
        parameter = next((end for end in ends if end in shapes), "")
        fits = shapes.get(parameter, leaf.shape) == leaf.shape
        names = (name, parameter) if parameter else (name,)
        rules_here = rules if fits else RULES[-1:]
        return NamedSharding(mesh, spec(*names, shape=leaf.shape, mesh=mesh, rules=rules_here))

    return trees.map_with_names(place, tree)


def unsharded_fraction(tree: Any, tree_shardings: Any) -> float:
    """Share of the tree's bytes that every device holds whole."""
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)]
    whole = [s.is_fully_replicated for s in jax.tree.leaves(tree_shardings)]
    return sum(size for size, w in zip(sizes, whole, strict=True) if w) / max(sum(sizes), 1)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of the global batch split over `data` × `fsdp`."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def put(x: np.ndarray, placement: NamedSharding) -> jax.Array:
    """An array that every process has whole, on the devices as `placement` says."""
    return jax.make_array_from_callback(x.shape, placement, lambda index: x[index])


def constrain_batch(x: jax.Array, *, mesh: Mesh) -> jax.Array:
    """Pin an activation [B, ...] to the batch split; left alone, the compiler may replicate it."""
    return jax.lax.with_sharding_constraint(x, batch_sharding(mesh))


def local_rows(batch_size: int, *, mesh: Mesh) -> np.ndarray:
    """Rows of the global batch that this process's devices hold, ascending, int64 [b].

    Not always a contiguous block: on a TPU the mesh follows the wires, not the host numbers.
    """
    slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    rows = [np.arange(batch_size)[index] for index in slices if index is not None]
    return np.unique(np.concatenate(rows))


def to_device(batch: dict[str, np.ndarray], *, mesh: Mesh, batch_size: int) -> dict[str, Any]:
    """This process's rows (as `local_rows` gives them) as global arrays [batch_size, ...]."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows, (batch_size, *rows.shape[1:]))
        for name, rows in batch.items()
    }
