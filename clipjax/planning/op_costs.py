"""What one scheduled HLO operation needs at least: matrix FLOPs and bytes of main memory.

`compiled.py` uses them to say which side of the roofline an operation lies on, and to charge
custom kernels. Time is not computed from them where the compiler has its own estimate.
"""

import re

import numpy as np

from clipjax.planning.hlo import Array, Instruction, Module

SLICES = ("dynamic-slice", "slice", "gather")
VIEWS = ("bitcast", "reshape", "get-tuple-element")


def matrix_flops(instruction: Instruction, *, module: Module, computation: str) -> float:
    """FLOPs of the matrix products in an operation, fused ones included; an add counts as one."""
    if instruction.opcode == "convolution":
        return _convolution_flops(instruction, module=module, computation=computation)
    if instruction.opcode == "dot":
        left = module.find(computation, instruction.operands[0])
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        if left is None or axes is None:
            return 0.0
        contracted = [left.arrays[0].dims[int(axis)] for axis in axes[1].split(",") if axis]
        return 2.0 * instruction.arrays[0].size * float(np.prod(contracted))
    if instruction.opcode != "fusion":
        return 0.0
    return sum(
        matrix_flops(inner, module=module, computation=name)
        for name in instruction.called
        for inner in module.scheduled(name)
    )


def hbm_bytes(instruction: Instruction, *, module: Module, computation: str) -> float:
    """Bytes, padded to tiles, that an operation reads from and writes to main memory.

    A fusion that slices an operand reads the slice; one that updates a slice in place writes it.
    """
    read = 0.0
    for position, name in enumerate(instruction.operands):
        source = module.find(computation, name)
        if source is None or len(source.arrays) != 1 or not source.arrays[0].in_hbm:
            continue  # on the chip, or a tuple, which is only passed on
        whole = source.arrays[0].padded_bytes
        if instruction.opcode == "fusion":
            whole = min(whole, _read_by_fusion(instruction, position, module=module))
        read += whole
    return read + _written(instruction, module=module)


def _read_by_fusion(fusion: Instruction, position: int, *, module: Module) -> float:
    body = module.scheduled(fusion.called[0])
    parameter = next(
        (i for i in body if i.opcode == "parameter" and i.literal == str(position)), None
    )
    if parameter is None:
        return float("inf")
    return _read_of(parameter, fusion.called[0], module=module)


def _read_of(value: Instruction, computation: str, *, module: Module) -> float:
    """Bytes of a value that its users in one computation need; infinite if they need it whole."""
    total = 0.0
    for user in module.scheduled(computation):
        if value.name not in user.operands:
            continue
        first = user.operands[0] == value.name
        if user.opcode in SLICES and first:
            total += user.arrays[0].padded_bytes
        elif user.opcode in SLICES or (user.opcode == "dynamic-update-slice" and first):
            continue  # an index, or overwritten in place
        elif user.opcode in VIEWS:
            total += _read_of(user, computation, module=module)
        elif user.opcode == "fusion":
            total += _read_by_fusion(user, user.operands.index(value.name), module=module)
        else:
            return float("inf")
    return total


def _written(instruction: Instruction, *, module: Module) -> float:
    results: list[Array] = [a for a in instruction.arrays if a.in_hbm]
    if instruction.opcode != "fusion" or not results:
        return sum(array.padded_bytes for array in results)
    name = instruction.called[0]
    root = module.root(name)
    parts = [root]
    if root is not None and root.opcode == "tuple":
        parts = [module.find(name, operand) for operand in root.operands]
    if len(parts) != len(instruction.arrays):
        return sum(array.padded_bytes for array in results)
    return sum(
        _update_bytes(part, name, module=module, whole=array.padded_bytes)
        for part, array in zip(parts, instruction.arrays, strict=True)
        if array.in_hbm
    )


def _update_bytes(
    part: Instruction | None, computation: str, *, module: Module, whole: float
) -> float:
    while part is not None and part.opcode in VIEWS:
        part = module.find(computation, part.operands[0])
    if part is None or part.opcode != "dynamic-update-slice":
        return whole
    update = module.find(computation, part.operands[1])
    return min(whole, update.arrays[0].padded_bytes) if update else whole


def _convolution_flops(instruction: Instruction, *, module: Module, computation: str) -> float:
    """2 × results × input features × window positions that meet an input.

    The TPU compiler writes batched products as convolutions over dilated batch dimensions, most
    of whose window meets nothing: only the positions that meet an element count.
    """
    left, right = (module.find(computation, name) for name in instruction.operands[:2])
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if left is None or right is None or labels is None:
        return 0.0
    inputs, kernel, outputs = labels.groups()
    sizes = [
        dict(zip(names, array.dims, strict=True))
        for names, array in (
            (inputs, left.arrays[0]),
            (kernel, right.arrays[0]),
            (outputs, instruction.arrays[0]),
        )
    ]
    flops = 2.0 * sizes[2]["b"] * sizes[2]["f"] * sizes[1]["i"]
    for dimension in sorted(set(inputs) - {"b", "f"}):
        flops *= _meetings(
            instruction.attributes,
            int(dimension),
            inputs=sizes[0][dimension],
            outputs=sizes[2][dimension],
        )
    return flops


def _meetings(attributes: str, dimension: int, *, inputs: int, outputs: int) -> float:
    """Pairs of an output position and a window position that meet an input element."""
    window = re.search(r"window=\{([^}]*)\}", attributes)
    settings = dict(re.findall(r"(\w+)=(\S+)", window[1])) if window else {}

    def setting(name: str, default: str) -> str:
        values = settings.get(name, "").split("x")
        return values[dimension] if dimension < len(values) and values[dimension] else default

    window_size, stride = int(setting("size", "1")), int(setting("stride", "1"))
    low = int(setting("pad", "0_0").split("_")[0])
    input_step, window_step = int(setting("lhs_dilate", "1")), int(setting("rhs_dilate", "1"))
    positions = (
        np.arange(outputs)[:, None] * stride + np.arange(window_size)[None, :] * window_step - low
    )
    inside = (positions >= 0) & (positions <= (inputs - 1) * input_step)
    return float(np.sum(inside & (positions % input_step == 0)))
