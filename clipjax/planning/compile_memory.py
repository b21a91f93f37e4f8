"""What the TPU compiler says about memory: of a program that fits, and of one that does not."""

import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
AMOUNT = r"([\d.]+)([KMGT]?)"
OVERFLOWS = (
    re.compile(rf"Used {AMOUNT}i?B? of {AMOUNT}i?B? hbm"),
    re.compile(rf"temporaries \({AMOUNT}\) exceeds available HBM \({AMOUNT}\)"),
)


def peak_bytes(analysis: Any) -> int:
    """Bytes on one device while a program runs, from `compiled.memory_analysis()`.

    Arguments, results that do not reuse them, temporaries, and the program itself.
    """
    return int(
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
        + analysis.generated_code_size_in_bytes
    )


def overflow(message: str) -> tuple[int, int] | None:
    """(bytes needed, bytes there are) from the compiler's error; None if it is another error."""
    for pattern in OVERFLOWS:
        if match := pattern.search(message):
            needed, there = (
                int(float(number) * UNITS[unit])
                for number, unit in (match.group(1, 2), match.group(3, 4))
            )
            return needed, there
    return None


def available_bytes(device: Any) -> int | None:
    """Bytes of a device's memory that the compiler lets a program use: asked with one too large.

    None if the compiler's answer cannot be read.
    """
    placed = SingleDeviceSharding(device)
    huge = jax.ShapeDtypeStruct((2**10, 2**30), jnp.bfloat16, sharding=placed)
    try:
        jax.jit(lambda x: x * 2).lower(huge).compile()
    except jax.errors.JaxRuntimeError as error:
        sizes = overflow(str(error))
        return sizes[1] if sizes else None
    return None
