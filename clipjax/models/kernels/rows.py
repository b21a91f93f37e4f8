"""How the kernels of this folder run: one example of the batch a program, on each device's own.

The kernels' gradient rules stand outside `shard_map`, on global arrays: a rule inside one that is
not told which values vary over the mesh would give gradients divided by the number of devices.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from clipjax.parallel.mesh import BATCH_AXES

VMEM_BYTES = 48 * 2**20  # that a kernel may take; TPU7x has 64 MiB a core, v4 to v6e 128 MiB


@dataclasses.dataclass(frozen=True)
class KernelMesh:
    """The devices that a kernel runs on, and how.

    Attributes:
      mesh: of the devices that share the arrays; rows lie over `data` × `fsdp`.
      interpret: as plain jax operations, for devices other than TPUs; slow.
    """

    mesh: Mesh
    interpret: bool = False


def run(
    kernel: Callable[..., None],
    *operands: jax.Array,
    kernel_mesh: KernelMesh,
    features: str | None = None,
    results: int = 0,
    sums: int = 0,
    **settings: Any,
) -> tuple[jax.Array, ...]:
    """Run a kernel on every example.

    Args:
      kernel: kernel(*operands, *results, *sums, **settings) on references to one example: [1, T, D]
        each, but [1, D] for operands that all examples share, and float32 [1, 1, D] for sums.
      *operands: global arrays [B, T, D], or [1, D].
      kernel_mesh: the devices it runs on.
      features: the mesh axis that D is split over; None if every device holds it whole.
      results: how many arrays like the first operand come out.
      sums: how many float32 [B, 1, D] come out after them.
      **settings: passed on to the kernel.
    """
    split, shared = P(BATCH_AXES, None, features), P(None, features)

    def local(*operands: jax.Array) -> Any:
        batch, tokens, width = operands[0].shape
        example, example_sum = (
            pl.BlockSpec((1, rows, width), lambda b: (b, 0, 0)) for rows in (tokens, 1)
        )
        result = jax.ShapeDtypeStruct(operands[0].shape, operands[0].dtype)
        result_sum = jax.ShapeDtypeStruct((batch, 1, width), jnp.float32)
        return pl.pallas_call(
            functools.partial(kernel, **settings),
            grid=(batch,),
            in_specs=[
                example if x.ndim == 3 else pl.BlockSpec((1, width), lambda b: (0, 0))
                for x in operands
            ],
            out_specs=(example,) * results + (example_sum,) * sums,
            out_shape=(result,) * results + (result_sum,) * sums,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel",), vmem_limit_bytes=VMEM_BYTES
            ),
            interpret=kernel_mesh.interpret,
            name=kernel.__name__,
        )(*operands)

    return jax.shard_map(
        local,
        mesh=kernel_mesh.mesh,
        in_specs=tuple(split if x.ndim == 3 else shared for x in operands),
        out_specs=(split,) * (results + sums),
        check_vma=False,
    )(*operands)
