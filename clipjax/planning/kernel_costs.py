"""What a custom kernel is charged: the TPU compiler estimates its own operations, not these.

The kernel's own compiled schedule (`kernel_schedules.py`) or its bytes over the memory's bandwidth,
whichever is longer; without a schedule four times the roofline on padded shapes. `compiled.py`
counts them, and `plan` shows the estimate with all of them at half and at double.
"""

import dataclasses
import re

from clipjax.parallel.accelerators import Accelerator
from clipjax.planning import op_costs
from clipjax.planning.hlo import Instruction, Module

TARGET = "tpu_custom_call"
ROOFLINE_FACTOR = 4.0


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A custom kernel at one place of the program.

    Attributes:
      name: of the instruction, from the name given to `pallas_call`.
      body: identity of the compiled code.
      cycles: charged for one execution.
      charged: how, in words.
    """

    name: str
    body: int
    cycles: float
    charged: str


def is_kernel(instruction: Instruction) -> bool:
    """Whether an instruction is a custom TPU kernel, ours or the compiler's."""
    is_call = instruction.opcode == "custom-call"
    return is_call and instruction.attribute("custom_call_target") == TARGET


def shared_schedules(module: Module, *, schedules: dict[str, int]) -> dict[str, int]:
    """The schedules, with those of kernels that the compiler took for copies of another.

    It compiles equal code once and dumps it under one of the names.
    """
    by_body: dict[str, int] = {}
    bodies: dict[str, str] = {}
    for computation in module.computations:
        for instruction in filter(is_kernel, module.scheduled(computation)):
            bodies[instruction.name] = _body(instruction)
            if instruction.name in schedules:
                by_body[_body(instruction)] = schedules[instruction.name]
    return {name: by_body[body] for name, body in bodies.items() if body in by_body}


def charge(
    instruction: Instruction,
    *,
    module: Module,
    computation: str,
    accelerator: Accelerator,
    schedules: dict[str, int],
) -> Kernel:
    """The kernel with its cost.

    Args:
      instruction: a custom call for which `is_kernel` holds.
      module, computation: where it is.
      accelerator: whose clock and bandwidth count.
      schedules: cycles by instruction name, as far as the compiler's dump gave them.
    """
    moved = op_costs.hbm_bytes(instruction, module=module, computation=computation)
    moved = max(moved, _declared(instruction, "bytes_accessed"))
    per_second = accelerator.clock_hz
    memory = moved / accelerator.hbm_bytes_per_second * per_second
    matrix = _declared(instruction, "flops") / accelerator.peak_flops * per_second
    scheduled = schedules.get(instruction.name)
    if scheduled is None:
        cycles = ROOFLINE_FACTOR * max(memory, matrix)
        charged = f"{ROOFLINE_FACTOR:g} × roofline, no schedule"
    elif scheduled >= memory:
        cycles, charged = float(scheduled), "its compiled schedule"
    else:
        cycles, charged = memory, "its bytes over the memory's bandwidth"
    return Kernel(instruction.name, hash(_body(instruction)), cycles, charged)


def _body(instruction: Instruction) -> str:
    body = re.search(r'"body":"([^"]*)"', instruction.attributes)
    return body[1] if body else instruction.name


def _declared(instruction: Instruction, name: str) -> float:
    """A figure of the kernel's own `CostEstimate`, 0 if it has none."""
    match = re.search(rf'"{name}":"?(\d+)', instruction.attributes)
    return float(match[1]) if match else 0.0
